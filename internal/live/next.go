package live

import (
	"context"
	"time"

	"signalbox"
	"signalbox/internal/registry"
	"signalbox/internal/wire"
)

// The bounds of Filter.Every.
const (
	minEvery = 100 * time.Millisecond
	maxEvery = time.Hour
)

// Next gives the next bytes to write: one event or several, whole, in the viewer's format. They
// are shared and must not be changed, and are lent until the next call of Next or Close. It
// waits for them, and ends with ctx's error; then it may be called again and nothing is lost.
// KindUnavailable: the hub of viewers has ended.
func (v *Viewer) Next(ctx context.Context) (block []byte, err error) {
	v.giveBack()
	for {
		switch v.phase {
		case telling:
			v.phase = v.afterStates()
			if v.opts.Snapshot {
				v.phase = showing
			}
			return v.writer.lagged(nil, &v.told), nil
		case showing:
			if b := v.states(); len(b) > 0 {
				return b, nil
			}
			v.phase = v.afterStates()
		case greeting:
			v.mu.Lock()
			at := v.from
			v.mu.Unlock()
			v.greeted = true
			v.settle()
			return v.writer.ready(nil, at, v.shown), nil
		case catching:
			b, err := v.catchUp(ctx)
			if err != nil || len(b) > 0 {
				return b, err
			}
		default:
			b, err := v.follow(ctx)
			if err != nil || len(b) > 0 {
				return b, err
			}
			v.phase = catching
		}
	}
}

// Cursor names the place up to which the viewer has everything that it chose, if that can be
// told now: with nothing waiting for it. So one who waits for rare events does not come back
// with an old cursor.
func (v *Viewer) Cursor() (cursor string, ok bool) {
	if v.phase != following {
		return "", false
	}
	v.hub.mu.Lock()
	defer v.hub.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.away || v.missed > 0 || v.head < len(v.queue) {
		return "", false
	}
	return string(v.hub.log.AppendCursor(nil, v.hub.handed(v.group))), true
}

// afterStates is what comes behind the snapshot: what was missed, of a viewer that has lost
// something, else ready.
func (v *Viewer) afterStates() phase {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.away && v.told.reason == reasonLost {
		return catching
	}
	return greeting
}

// giveBack ends what the last Next lent.
func (v *Viewer) giveBack() {
	if v.hand > 0 {
		v.mu.Lock()
		v.bytes -= v.hand
		v.hand = 0
		v.mu.Unlock()
	}
	if v.lent != nil {
		v.hub.buffers.Put(v.lent)
		v.lent = nil
	}
}

// borrow gives memory that is lent until the next call.
func (v *Viewer) borrow() []byte {
	v.lent, _ = v.hub.buffers.Get().(*[]byte)
	return (*v.lent)[:0]
}

// settle ends a beginning: from now on what finds no room is missed.
func (v *Viewer) settle() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.away {
		v.phase = catching
		return
	}
	v.phase, v.tender = following, false
}

// follow gives what is queued; nothing when all the rest comes from history.
func (v *Viewer) follow(ctx context.Context) ([]byte, error) {
	for {
		v.mu.Lock()
		if v.head == len(v.queue) {
			v.state()
		}
		if v.head < len(v.queue) {
			b := v.grab()
			v.mu.Unlock()
			return v.join(b), nil
		}
		away := v.away
		v.mu.Unlock()
		if away {
			return nil, nil
		}
		select {
		case <-v.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-v.hub.ended:
			return nil, stopping()
		}
	}
}

// grab takes blocks off the queue, as many as make a block of usual size. The caller holds the
// lock.
func (v *Viewer) grab() []*block {
	v.taken = v.taken[:0]
	size := 0
	for v.head < len(v.queue) {
		b := v.queue[v.head]
		if len(v.taken) > 0 && (b.lag != nil || v.taken[0].lag != nil || size+len(b.data) > blockBytes) {
			break
		}
		v.taken = append(v.taken, b)
		v.queue[v.head] = nil
		v.head++
		size += len(b.data)
		if b.lag == nil {
			v.hand += len(b.data) + blockHead
		}
	}
	switch {
	case v.head == len(v.queue):
		v.queue, v.head = v.queue[:0], 0
		if cap(v.queue) > spareBlocks {
			v.queue = nil
		}
	case v.head > spareBlocks && v.head > len(v.queue)/2:
		n := copy(v.queue, v.queue[v.head:])
		clear(v.queue[n:])
		v.queue, v.head = v.queue[:n], 0
	}
	return v.taken
}

// spareBlocks is how long a viewer's queue may be without being made anew.
const spareBlocks = 64

// join gives the bytes of blocks, which are in v.taken.
func (v *Viewer) join(blocks []*block) []byte {
	defer func() { clear(v.taken) }()
	if l := blocks[0].lag; l != nil {
		return v.writer.lagged(nil, l)
	}
	events := 0
	for _, b := range blocks {
		events += b.events
	}
	v.hub.stats.Delivered.Add(int64(events))
	if len(blocks) == 1 {
		return blocks[0].data
	}
	all := v.borrow()
	for _, b := range blocks {
		all = append(all, b.data...)
	}
	*v.lent = all
	return all
}

// states gives the next states of the snapshot, nothing when there are no more.
func (v *Viewer) states() []byte {
	h := v.hub
	if v.group.kinds&stateKinds == 0 {
		return nil
	}
	if v.shown < 0 {
		v.shown = 0
		v.devices = v.opts.Devices
		if v.devices == nil {
			v.all = h.devices.All()
		}
		if v.opts.Fields != nil {
			v.choice = wire.NewChoice(v.opts.Fields)
		}
	}
	b := v.borrow()
	for ; v.next < max(len(v.devices), len(v.all)) && len(b) < blockBytes; v.next++ {
		var d *registry.Device
		if v.all != nil {
			if d = v.all[v.next]; h.devices.Get(d.ID) != d {
				continue // removed meanwhile
			}
		} else if d = h.devices.Get(v.devices[v.next]); d == nil {
			continue
		}
		if v.opts.Types != nil && !contains(v.opts.Types, d.Type()) || d.Pending() {
			continue
		}
		b = v.state1(b, d)
		v.shown++
	}
	*v.lent = b
	if len(b) == 0 {
		v.devices, v.all, v.choice = nil, nil, nil
	}
	return b
}

// looks is how often a state is looked at until its position is surely its own.
const looks = 3

// state1 appends the state of a device.
func (v *Viewer) state1(b []byte, d *registry.Device) []byte {
	at := position(d)
	s := d.StateView()
	for range looks {
		// A position that is too low does no harm: an event is shown again that is in the state.
		then := position(d)
		if then == at {
			break
		}
		at, s = then, d.StateView()
	}
	switch {
	case v.group.kinds&telemetryBit == 0:
		s.Telemetry = nil
	case v.choice != nil && s.Telemetry != nil:
		if v.choice.Look(s.Telemetry) {
			s.Telemetry = v.choice.AppendTo(nil)
		} else {
			s.Telemetry = nil
		}
	}
	return v.writer.state(b, &s, at)
}

// position is that of a device's latest telemetry.
func position(d *registry.Device) signalbox.Position {
	s := d.Lock()
	defer d.Unlock()
	return s.Position
}

func stopping() error {
	return signalbox.Errorf(signalbox.KindUnavailable, "stopping", "the hub is stopping")
}
