package compat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/gateway/ws"
)

const (
	// askRows is how many rows an answer has at most.
	askRows = 20
	// busyWait is how long a viewer is not read while its question is being answered.
	busyWait = 5 * time.Millisecond
)

// historyDoor decides on upgrades of the history port.
type historyDoor struct{ v *Viewers }

// Upgrade implements ws.Handler. Boards and programs send no Origin, or file://.
func (d historyDoor) Upgrade(r *ws.Request) (ws.Endpoint, *ws.Refusal) {
	v := d.v
	if v.cfg.Crowded != nil {
		if refusal := v.cfg.Crowded(r.RemoteAddr().Addr()); refusal != nil {
			return nil, refusal
		}
	}
	origin := r.Header("Origin")
	if origin != "" && origin != "file://" && !slices.Contains(v.cfg.Origins, origin) && (origin != "null" || !v.AdmitsNull(r.RemoteAddr().Addr())) {
		v.stats.OriginRefused.Add(1)
		return nil, &ws.Refusal{Status: 403, Text: "Pages of this origin may not connect to this port; the setting devices.origins admits them."}
	}
	return &historyViewer{seat: seat{v: v}, opened: v.now()}, nil
}

// historyViewer is a viewer of the past: a ws.Endpoint.
type historyViewer struct {
	seat
	opened time.Duration // on the clock of Viewers.now
	stuck  time.Duration // since when it does not read its answers; 0: it does
	early  bool          // the text that comes next was there before the answer to the last one was
	busy   atomic.Bool   // its question is being answered; cleared by a worker
}

// question is one to be answered by a worker.
type question struct {
	from  *historyViewer
	row   int64
	until time.Time
}

// Opened implements ws.Endpoint.
func (h *historyViewer) Opened(c *ws.Conn) { h.open(c) }

// Receive implements ws.Endpoint. One question is answered at a time; who asks more is read later.
func (h *historyViewer) Receive(_ *ws.Conn, binary bool, text []byte) time.Duration {
	if h.ended.Load() || !h.taken && !h.take() {
		return 0
	}
	if h.busy.Load() {
		h.early = true
		return busyWait
	}
	if h.backlog() {
		h.early = true
		return backlogWait
	}
	if wait := h.tooFast(); wait > 0 {
		return wait
	}
	row, asks, fits := parseAsk(text)
	// Who asks for one page after the other may do so as fast as it is answered.
	early := h.early || (!asks || !fits) && h.spent > textBurst/2
	h.early = false
	if h.floods(early) {
		return 0
	}
	switch {
	case binary:
		h.ignore()
	case string(text) == wordHello:
		h.greet()
	case asks && fits:
		return h.ask(row)
	case asks:
		h.v.stats.Asked.Add(1)
		h.fault(fmt.Sprintf("database: is followed by %.40q; allowed is a decimal number from 0 to 9223372036854775807", text[len(wordDatabase):]))
	default:
		h.ignore()
	}
	return 0
}

// ask hands a question to the workers.
func (h *historyViewer) ask(row int64) time.Duration {
	h.busy.Store(true)
	select {
	case h.v.asks <- question{h, row, time.Now().Add(h.v.cfg.AskTimeout)}:
		return 0
	default: // questions of viewers that have gone wait, too
		h.busy.Store(false)
		return busyWait
	}
}

// fault says what is wrong with a question, and that its answer ends.
func (h *historyViewer) fault(words string) {
	h.v.stats.Faults.Add(1)
	if h.offer(appendError(nil, words)) {
		h.offer([]byte(frameClose))
	}
}

// Tick implements ws.Endpoint.
func (h *historyViewer) Tick(*ws.Conn, time.Time) {
	switch {
	case h.ended.Load():
	case !h.taken && h.v.now()-h.opened > h.v.cfg.Silence:
		h.end(ws.CodePolicy, "nothing was said in time")
	case !h.backlog():
		h.stuck = 0
	case h.stuck == 0:
		h.stuck = h.v.now()
	case h.v.now()-h.stuck > h.v.cfg.Patience:
		h.slow()
	}
}

// Closed implements ws.Endpoint.
func (h *historyViewer) Closed(*ws.Conn, error) { h.leave() }

// answerAll answers questions until ctx ends.
func (v *Viewers) answerAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-v.asks:
			v.stats.Asked.Add(1)
			if !q.from.ended.Load() {
				v.answer(ctx, &q)
			}
			q.from.busy.Store(false)
		}
	}
}

// answer sends the rows from the one that was asked for, or that there are none, and close.
func (v *Viewers) answer(run context.Context, q *question) {
	ctx, cancel := context.WithDeadline(run, q.until)
	defer cancel()
	page, err := v.page(ctx, q.row)
	if err != nil {
		if run.Err() == nil { // else the hub stops, and the viewer has been told
			q.from.fault(v.wordsOf(cmp.Or(ctx.Err(), err)))
		}
		return
	}
	v.failing.Store(false)
	if len(page) == 0 {
		q.from.offer([]byte(frameEmpty))
	}
	var frame []byte
	for i := range page {
		_, value, ok := readingOf(page[i].Object, v.cfg.Field)
		if !ok {
			continue
		}
		v.stats.Rows.Add(1)
		frame = appendOldData(frame[:0], page[i].Time.In(v.cfg.Zone), value)
		if !q.from.offer(frame) {
			return
		}
	}
	q.from.offer([]byte(frameClose))
}

// page gives the device's messages from a row on; a device that is not there yet has none.
func (v *Viewers) page(ctx context.Context, row int64) ([]signalbox.Telemetry, error) {
	d := v.parts.Devices.Find(v.cfg.Device)
	if d == nil {
		return nil, nil
	}
	return v.parts.Log.PageAt(ctx, d.ID, row, askRows)
}

// wordsOf is what a viewer is told of a fault of history; the hub's log has the rest, once for
// several in a row.
func (v *Viewers) wordsOf(err error) string {
	if !v.failing.Swap(true) {
		v.cfg.Logger.Warn("the history of the original viewers cannot be read; further faults in a row are counted only", "device", v.cfg.Device, "err", err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("History gave no answer within %s; ask again later.", v.cfg.AskTimeout)
	}
	if e, ok := errors.AsType[*signalbox.Error](err); ok && e.Kind != signalbox.KindInternal {
		return e.Message
	}
	return "History cannot be read now; the hub's log says more."
}
