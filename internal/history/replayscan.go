package history

import (
	"context"
	"database/sql"
	"fmt"
	"math"

	"signalbox"
)

// RangeQuery chooses telemetry by its history time, to be given in log order.
type RangeQuery struct {
	ScanQuery
	// After < position ≤ Until. Until 0: what is committed when the scan begins.
	After, Until signalbox.Position
}

// chosenAtOnce is the most devices whose chunks are looked for one by one.
const chosenAtOnce = 256

// ScanRange calls yield for the telemetry that q chooses in log order, that of messages
// which came late included; the entry and its body are lent for the call. It reads the
// chunks alone that reach into the range, and its memory is bounded whatever is chosen.
func (l *Log) ScanRange(ctx context.Context, q RangeQuery, yield func(*signalbox.Entry) error) error {
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return badRange(q.From, q.To)
	}
	low, high := int64(math.MinInt64), int64(math.MaxInt64)
	if !q.From.IsZero() {
		low = q.From.UnixMicro()
	}
	if !q.To.IsZero() {
		high = q.To.UnixMicro() - 1
	}
	committed := l.Committed()
	if q.Until == 0 || q.Until > committed {
		q.Until = committed
	}
	if q.After >= q.Until {
		return nil
	}
	if err := l.sealed.wait(ctx, committed); err != nil {
		return err
	}
	wanted := map[signalbox.DeviceID]bool(nil) // all
	if q.Devices != nil {
		wanted = make(map[signalbox.DeviceID]bool, len(q.Devices))
		for _, d := range q.Devices {
			wanted[d] = true
		}
	}
	var inMemory []span
	firsts := map[signalbox.DeviceID]signalbox.Position{} // from which on devices are in memory
	l.seal.tails.each(q.Devices, func(device signalbox.DeviceID, m memory) {
		firsts[device] = m.first
		for _, s := range m.spans(device, low, high) {
			s.k0, s.k1 = int64(s.run.First()), int64(s.run.Last())
			inMemory = append(inMemory, s)
		}
	})
	s := sweep{l: l, key: func(p signalbox.Position, _ int64) int64 { return int64(p) }}
	s.yield = func(e *signalbox.Entry) error {
		if e.TimeMicros < low || e.TimeMicros > high || wanted != nil && !wanted[e.Device] {
			return nil
		}
		return yield(e)
	}
	s.heads = func(ctx context.Context, from int64) ([]span, error) {
		found, err := l.chunksByRange(ctx, q.Devices, low, high, from, firsts)
		if err != nil {
			return nil, err
		}
		for _, m := range inMemory {
			if m.k1 >= from {
				found = append(found, m)
			}
		}
		return found, nil
	}
	return s.run(ctx, int64(q.After)+1, int64(q.Until))
}

// chunksByRange finds the chunks with messages from low to high that reach to position from
// or behind, but for those that are in memory too; of many devices, also chunks of others.
func (l *Log) chunksByRange(ctx context.Context, devices []signalbox.DeviceID, low, high, from int64, firsts map[signalbox.DeviceID]signalbox.Position) (found []span, err error) {
	const chosen = `SELECT id, device, p0, p1, p0 FROM chunk WHERE t0 <= ? AND t1 >= ? AND p1 >= ? AND device `
	prepare := func(text string) (*sql.Stmt, error) {
		stmt, err := l.st.Reader().PrepareContext(ctx, chosen+text)
		if err != nil {
			return nil, fmt.Errorf("prepare to read history: %w", err)
		}
		return stmt, nil
	}
	if devices == nil || len(devices) > chosenAtOnce {
		stmt, err := prepare(`> 0`)
		if err != nil {
			return nil, err
		}
		defer func() { _ = stmt.Close() }() // nothing was written
		return l.spans(ctx, firsts, stmt, high, low, from)
	}
	stmt, err := prepare(`= ?`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stmt.Close() }() // nothing was written
	for _, d := range devices {
		more, err := l.spans(ctx, firsts, stmt, high, low, from, int64(d))
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}
