package history

// LimitSweeps bounds what sweeps have in memory: see sweepLimits.
func (l *Log) LimitSweeps(bytes, entries, cursors, chunks int64) {
	l.sweeps = sweepLimits{bytes, entries, cursors, chunks}
}
