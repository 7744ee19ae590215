package history

import "signalbox"

// LimitSweeps bounds what sweeps have in memory: see sweepLimits.
func (l *Log) LimitSweeps(bytes, entries, cursors, chunks int64) {
	l.sweeps = sweepLimits{bytes, entries, cursors, chunks}
}

// Merging makes the log believe that chunks of the device are being merged, until ended.
func (l *Log) Merging(device signalbox.DeviceID) (ended func()) { return l.seal.tails.merging(device) }

// FirstKept is where the log's rows begin.
func (l *Log) FirstKept() signalbox.Position { return l.firstKept() }
