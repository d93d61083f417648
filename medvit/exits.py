"""The exit codes of verbs that work on several studies; 1 is an error that stops them all."""

ALL_WELL, NOTHING_TO_DO, SOME_FAILED, INTERRUPTED = 0, 2, 3, 130
