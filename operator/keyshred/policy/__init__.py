"""Pure decisions on plain values: which key, who may, what changes, what comes next. No I/O, no clock of its own."""
