"""The command line: `keyshred webhook`, `keyshred controller`."""
