"""Parts that two networks share."""
