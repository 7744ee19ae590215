package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

// checkpointRows is how many states go into one transaction: few, so that commits of
// the log, which wait meanwhile, stay quick.
const checkpointRows = 100

// Touch marks d's state as changed since it was last stored. The caller holds d's lock, and
// touches before it appends to the log the entry that changes the state: a checkpoint that
// covers the entry then waits for the lock and stores the state with the change.
func (r *Registry) Touch(d *Device) {
	if d.dirty {
		return
	}
	d.dirty = true
	r.dirtyMu.Lock()
	r.dirty = append(r.dirty, d)
	r.dirtyMu.Unlock()
}

// Checkpoint stores the states that changed, so that a start has less of the log to read.
// It returns how many it stored. One call at a time.
func (r *Registry) Checkpoint(ctx context.Context, log *history.Log) (int, error) {
	at := log.Committed()
	r.dirtyMu.Lock()
	dirty := r.dirty
	r.dirty = nil
	r.dirtyMu.Unlock()
	done := 0
	for part := range slices.Chunk(dirty, checkpointRows) {
		if err := r.storeStates(ctx, log, part); err != nil {
			for _, d := range dirty[done:] {
				d.Lock()
				d.dirty = false
				r.Touch(d)
				d.Unlock()
			}
			return done, err
		}
		done += len(part)
	}
	if at == r.checkpoint {
		return done, nil
	}
	err := r.st.Update(ctx, func(tx *store.Tx) error {
		return tx.SetMeta(ctx, checkpointKey, strconv.FormatUint(uint64(at), 10))
	})
	if err == nil {
		r.checkpoint = at
		r.hold.Release(at)
	}
	return done, err
}

// storeStates writes the states of some devices, after the log has everything that they
// show: a state must not outlive its entry in a crash.
func (r *Registry) storeStates(ctx context.Context, log *history.Log, devices []*Device) error {
	rows := make([]store.DeviceState, 0, len(devices))
	for _, d := range devices {
		s := d.Lock()
		d.dirty = false
		if !d.removed {
			rows = append(rows, store.DeviceState{
				Device: d.ID, Position: s.Position, ReceivedMicros: s.ReceivedMicros, TimeMicros: s.TimeMicros, Boot: s.Boot, Seq: s.Seq,
				Body: slices.Clone(s.Body), Online: s.Session != 0, SinceMicros: s.SinceMicros, Address: addressText(s.Address),
			})
		}
		d.Unlock()
	}
	if err := log.Wait(ctx, log.Head()); err != nil {
		return err
	}
	return r.st.Update(ctx, func(tx *store.Tx) error {
		for i := range rows {
			if err := tx.PutDeviceState(ctx, &rows[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// replay applies one entry of the log to its device's state. Applying an entry that the
// checkpoint already knew is harmless, because all that follow are applied as well.
func (r *Registry) replay(e *signalbox.Entry) error {
	d := r.Get(e.Device)
	if d == nil {
		return nil // removed since
	}
	s := d.Lock()
	defer d.Unlock()
	switch e.Kind {
	case signalbox.EntryTelemetry:
		s.Position, s.ReceivedMicros, s.TimeMicros = e.Position, e.ReceivedMicros, e.TimeMicros
		s.SetBody(e.Body)
		if e.Seq != 0 {
			s.Boot, s.Seq, s.SeqPosition = e.Boot, e.Seq, e.Position
		}
	case signalbox.EntryPresence:
		var p signalbox.PresenceChange
		if err := json.Unmarshal(e.Body, &p); err != nil {
			return fmt.Errorf("entry %d is no presence change: %w", e.Position, err)
		}
		s.SinceMicros = e.ReceivedMicros
		s.Session = 0
		if p.Presence == signalbox.Online {
			s.Session = p.Session
		}
		if a, err := netip.ParseAddr(p.Address); err == nil {
			s.Address = a
		}
	default:
		return nil
	}
	r.Touch(d)
	return nil
}
