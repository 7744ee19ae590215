package compat

import (
	"time"

	"signalbox"
	"signalbox/internal/gateway/ws"
)

// liveViewer is a viewer of what comes in: a ws.Endpoint.
type liveViewer struct {
	seat
	watches bool
	held    time.Duration      // since when its hello waits, on the clock of Viewers.now; 0: none does
	after   signalbox.Position // readings up to here came before it watched; set before it is in Viewers.watching
}

// Opened implements ws.Endpoint.
func (l *liveViewer) Opened(c *ws.Conn) { l.open(c) }

// Receive implements ws.Endpoint. A viewer stays one: whatever is no word of viewers is ignored,
// a device's login too.
func (l *liveViewer) Receive(_ *ws.Conn, binary bool, text []byte) time.Duration {
	if l.ended.Load() || !l.taken && !l.take() {
		return 0
	}
	hello := !binary && string(text) == wordHello
	if hello && l.backlog() { // the answer might not fit, and the viewer may be about to read
		if l.held == 0 {
			l.held = l.v.now()
		}
		return backlogWait
	}
	if wait := l.tooFast(); wait > 0 {
		return wait
	}
	l.held = 0
	if l.floods(l.spent > textBurst/2) {
		return 0
	}
	switch {
	case hello:
		l.greet()
	case !binary && string(text) == wordRealtime:
		l.watch()
	default:
		l.ignore()
	}
	return 0
}

// Tick implements ws.Endpoint.
func (l *liveViewer) Tick(*ws.Conn, time.Time) {
	if l.held != 0 && l.v.now()-l.held > l.v.cfg.Patience && !l.ended.Load() {
		l.slow()
	}
}

// Closed implements ws.Endpoint.
func (l *liveViewer) Closed(*ws.Conn, error) {
	l.leave()
	if !l.watches {
		return
	}
	v := l.v
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.watching, l)
	v.list = nil
	v.stats.Watching.Add(-1)
}

// watch begins to send readings: those that come from now on.
func (l *liveViewer) watch() {
	if l.watches {
		return
	}
	l.watches = true
	v := l.v
	v.mu.Lock()
	defer v.mu.Unlock()
	// Under the lock: what comes behind this position finds the viewer in the list.
	l.after = v.parts.Log.Head()
	v.watching[l] = struct{}{}
	v.list = nil
	v.stats.Watching.Add(1)
}

// watchers are the viewers that watch; the list must not be changed.
func (v *Viewers) watchers() []*liveViewer {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.list == nil && len(v.watching) > 0 {
		v.list = make([]*liveViewer, 0, len(v.watching))
		for l := range v.watching {
			v.list = append(v.list, l)
		}
	}
	return v.list
}

// announce hands readings to those who watch, in the order of the log.
func (v *Viewers) announce(entries []signalbox.Entry) {
	// Who is not in the list yet wants nothing of these entries: they are behind it in the log.
	list := v.watchers()
	var frame []byte
	for i := range entries {
		e := &entries[i]
		if uint64(e.Device) > v.highest.Load() {
			v.learn(e.Device)
		}
		if uint64(e.Device) != v.device.Load() || len(list) == 0 {
			continue
		}
		spelled, _, ok := readingOf(e.Body, v.cfg.Field)
		if !ok {
			continue
		}
		frame = appendNewData(frame[:0], time.UnixMicro(e.TimeMicros).In(v.cfg.Zone), spelled)
		v.send(list, frame, e.Position)
	}
}

// send gives a frame to the viewers that watched before position p.
func (v *Viewers) send(list []*liveViewer, frame []byte, p signalbox.Position) {
	v.stats.Readings.Add(1)
	delivered := int64(0)
	for _, l := range list {
		if l.after < p && l.offer(frame) {
			delivered++
		}
	}
	v.stats.Delivered.Add(delivered)
}

// lost closes all who watch, because readings were missed that each of them should have had.
func (v *Viewers) lost(missed int64) {
	v.stats.Overflows.Add(1)
	v.stats.Missed.Add(missed)
	closed := int64(0)
	for _, l := range v.watchers() {
		if l.end(ws.CodeTryLater, "readings were missed") {
			closed++
		}
	}
	v.stats.Lost.Add(closed)
	v.cfg.Logger.Warn("readings came faster than they could be handed to the original viewers, who were disconnected", "missed", missed, "viewers", closed)
}
