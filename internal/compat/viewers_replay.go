package compat

import (
	"context"
	"math"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/replay"
)

const (
	// replayPatience is how long a replay waits for a viewer that does not read.
	replayPatience = 10 * time.Second
	replayLook     = 2 * time.Millisecond
)

// ReplaySink plays a replay into the live viewers that watch, whoever they are at the time: its
// readings of the device look as if they came now, with the times that the replay gives them. The
// frames have no room for a replay's mark, so the replay has to be an unmarked one. It waits for
// viewers whose outbox is half full, and closes those that do not read for 10 s (1013). Other
// devices of the replay are passed over. With viewers off it is KindConflict, code viewers_off.
func (v *Viewers) ReplaySink() replay.Sink { return replaySink{v} }

type replaySink struct{ v *Viewers }

// CarriesMark implements replay.Sink.
func (replaySink) CarriesMark() bool { return false }

// Deliver implements replay.Sink.
func (s replaySink) Deliver(ctx context.Context, _ *replay.Status, events []replay.Event) error {
	v := s.v
	if !v.On() {
		return signalbox.Errorf(signalbox.KindConflict, "viewers_off", "there are no original viewers to play to: compat.viewers.device and compat.viewers.field are not set")
	}
	var frame []byte
	for i := range events {
		e := &events[i]
		if e.Device != v.cfg.Device {
			continue
		}
		spelled, _, ok := readingOf(e.Object, v.cfg.Field)
		if !ok {
			continue
		}
		frame = appendNewData(frame[:0], time.UnixMicro(e.TimeMicros).In(v.cfg.Zone), spelled)
		list := v.watchers()
		if err := s.room(ctx, list); err != nil {
			return err
		}
		v.send(list, frame, math.MaxUint64)
	}
	return nil
}

// room waits until every viewer reads.
func (s replaySink) room(ctx context.Context, list []*liveViewer) error {
	full := func(l *liveViewer) bool { return !l.ended.Load() && l.ws.Queued() > s.v.cfg.Outbox/2 }
	if !slices.ContainsFunc(list, full) {
		return nil
	}
	patience := time.NewTimer(replayPatience)
	defer patience.Stop()
	look := time.NewTicker(replayLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-patience.C:
			for _, l := range list {
				if full(l) {
					l.slow()
				}
			}
			return nil
		case <-look.C:
			if !slices.ContainsFunc(list, full) {
				return nil
			}
		}
	}
}

// Tell implements replay.Sink: the original's frames have no word for it.
func (replaySink) Tell(context.Context, *replay.Status) error { return nil }

// Idle implements replay.Sink.
func (replaySink) Idle(context.Context) error { return nil }
