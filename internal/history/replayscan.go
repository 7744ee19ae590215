package history

import (
	"context"
	"fmt"

	"signalbox"
	"signalbox/internal/history/chunk"
)

// RangeQuery chooses telemetry by its history time, to be given in log order.
type RangeQuery struct {
	ScanQuery
	// After < position ≤ Until. Until 0: what is committed when the scan begins.
	After, Until signalbox.Position
}

// ScanRange calls yield for the telemetry that q chooses in log order, that of messages
// which came late included; the entry and its body are lent as by ScanTime. It reads the
// chunks alone that reach into the range, and its memory is bounded whatever is chosen.
func (l *Log) ScanRange(ctx context.Context, q RangeQuery, yield func(*signalbox.Entry) error) error {
	low, high, err := q.times()
	if err != nil {
		return err
	}
	committed := l.Committed()
	if q.Until == 0 || q.Until > committed {
		q.Until = committed
	}
	if q.After >= q.Until {
		return nil
	}
	if l.gone.Load() {
		return l.away(nil)
	}
	if err := l.sealed.wait(ctx, committed); err != nil {
		return err
	}
	s := l.newSweep(chunk.ByPosition, yield)
	s.want.From, s.want.To = low, high
	s.takeMemory(q.Devices, low, high)
	s.heads = func(ctx context.Context, from int64) ([]span, error) {
		return s.byRange(ctx, q.Devices, low, high, from)
	}
	return s.run(ctx, int64(q.After)+1, int64(q.Until))
}

// byRange finds what has messages from low to high and reaches to position from or behind.
func (s *sweep) byRange(ctx context.Context, devices []signalbox.DeviceID, low, high, from int64) (found []span, err error) {
	const chosen = `SELECT id, device, p0, p1, p0 FROM chunk WHERE t0 <= ? AND t1 >= ? AND p1 >= ? AND device `
	all := devices == nil || len(devices) > chosenAtOnce
	which := `= ?`
	if all {
		which = `> 0`
	}
	stmt, err := s.l.st.Reader().PrepareContext(ctx, chosen+which)
	if err != nil {
		return nil, fmt.Errorf("prepare to read history: %w", err)
	}
	defer func() { _ = stmt.Close() }() // nothing was written
	if all {
		if found, err = s.spans(ctx, stmt, high, low, from); err != nil {
			return nil, err
		}
		return s.andMemory(only(found, devices), from), nil
	}
	for _, d := range devices {
		more, err := s.spans(ctx, stmt, high, low, from, int64(d))
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return s.andMemory(found, from), nil
}
