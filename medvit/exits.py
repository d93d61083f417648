"""The exit codes of verbs that work on several studies."""

ALL_WELL, STOPPED_BY_ERROR, NOTHING_TO_DO, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
