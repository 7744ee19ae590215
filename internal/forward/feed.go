package forward

import (
	"context"
	"errors"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

const (
	// MaxBatch is how many messages a Sink is given at a time at most.
	MaxBatch = 1024
	// batchBytes is the size from which a batch is full.
	batchBytes = 256 << 10
	// queueBatches lie between the log and the sink, besides those that the two have in hand. To
	// begin to read far behind the log's end may cost a second of CPU: with a slow receiver each
	// reading has to be worth that.
	queueBatches = 8
	// parkAfter is how long a feed waits for room, or reads at a stretch when others wait for
	// their turn, before it lets go of the log.
	parkAfter = time.Second
	// farBehind is how many positions a feed is behind the log's end when it needs a turn to read;
	// openReads forwarders have one at the same time.
	farBehind = 200_000
	openReads = 2
	// catchingUp is how many positions a forwarder is behind when it is said to catch up.
	catchingUp = 10_000
	// lateAfter is how old what is sent may be when a forwarder is not said to catch up.
	lateAfter = 10 * time.Second
)

// errPark ends a reading that is to go on later.
var errPark = errors.New("the reader lets go of the log for a while")

// feed reads the log ahead of a sink, in a goroutine of its own, and makes messages.
type feed struct {
	f    *forwarder
	spec *Spec
	enc  *encoder
	want wanted
	// at is the position up to which the log was looked at, mark that up to which messages may
	// have been sent before.
	at, mark signalbox.Position

	out    chan *batch // closed at the end; then err is set
	free   chan *batch
	low    chan struct{} // nudged when the sink has taken the last batch of out
	b      *batch
	began  time.Time // of the turn
	turn   bool
	aged   signalbox.Position // positions from there to at are too old; valid if old
	old    bool
	cutoff int64 // Unix µs: what was received before is too old
	err    error
	cancel context.CancelFunc
}

// wanted is what a spec chooses.
type wanted struct {
	devices map[string]bool
	types   map[string]bool
	kinds   [8]bool
	events  bool
	ids     []signalbox.DeviceID
}

func newWanted(spec *Spec) wanted {
	d := spec.Defaulted()
	w := wanted{devices: setOf(d.Devices), types: setOf(d.Types)}
	for _, word := range d.Kinds {
		kind := kindOf(word)
		w.kinds[kind] = true
		w.events = w.events || kind != signalbox.EntryTelemetry
	}
	return w
}

func setOf(names []string) map[string]bool {
	if len(names) == 0 {
		return nil
	}
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	return set
}

// begin starts to read behind a position. What is up to mark may have been sent before; seq is the
// last number given.
func (l *life) begin(ctx context.Context, after, mark signalbox.Position, seq uint64) *feed {
	ctx, cancel := context.WithCancel(ctx)
	d := &feed{
		f: l.f, spec: &l.spec, enc: l.enc, want: l.want, at: after, mark: mark,
		out: make(chan *batch, queueBatches), free: make(chan *batch, queueBatches+2), low: make(chan struct{}, 1), cancel: cancel,
	}
	d.b = d.fresh(seq)
	go func() {
		defer close(d.out)
		d.err = d.run(ctx)
	}()
	return d
}

// close waits until the reader has ended.
func (d *feed) close() {
	d.cancel()
	for range d.out { // what is left is read again
	}
}

// took says that the sink has a batch in hand.
func (d *feed) took() {
	if len(d.out) == 0 {
		nudge(d.low)
	}
}

// used gives a batch back.
func (d *feed) used(b *batch) {
	select {
	case d.free <- b:
	default:
	}
}

func (d *feed) fresh(seq uint64) *batch {
	var b *batch
	select {
	case b = <-d.free:
		b.reset()
	default:
		b = &batch{}
	}
	b.seq = seq
	return b
}

func (d *feed) run(ctx context.Context) error {
	log := d.f.m.parts.Log
	for {
		end := log.Committed()
		if d.at >= end {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-d.f.wake:
				continue
			}
		}
		d.limit(end)
		if err := d.acquire(ctx, end); err != nil {
			return err
		}
		err := d.scan(ctx, end)
		d.release()
		parked := errors.Is(err, errPark)
		if err != nil && !parked {
			return err
		}
		if err := d.send(ctx); err != nil {
			return err
		}
		if !parked {
			continue
		}
		if err := d.drained(ctx); err != nil {
			return err
		}
	}
}

// drained waits until the sink has taken all that was read.
func (d *feed) drained(ctx context.Context) error {
	for len(d.out) > 0 {
		select {
		case <-d.low:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// limit gives up what is too far behind.
func (d *feed) limit(end signalbox.Position) {
	if most := signalbox.Position(d.spec.Queue.MaxEntries); end > most && d.at < end-most {
		d.skip(end-most, "max_entries")
	}
	d.cutoff = time.Now().Add(-d.spec.Queue.MaxAge).UnixMicro()
}

func (d *feed) skip(to signalbox.Position, why string) {
	d.b.skips = append(d.b.skips, skip{d.at, to, why})
	d.at = to
}

// acquire waits for a turn where there is much to read.
func (d *feed) acquire(ctx context.Context, end signalbox.Position) error {
	d.began = time.Now()
	if end-d.at < d.f.m.limits.far {
		return nil
	}
	m := d.f.m
	m.waiting.Add(1)
	defer m.waiting.Add(-1)
	select {
	case m.turns <- struct{}{}:
		d.turn, d.began = true, time.Now()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *feed) release() {
	if d.turn {
		<-d.f.m.turns
		d.turn = false
	}
}

// scan reads up to end.
func (d *feed) scan(ctx context.Context, end signalbox.Position) error {
	err := d.f.m.parts.Log.Since(ctx, history.SinceQuery{After: d.at, Until: end, Devices: d.devices(), Events: d.want.events, Gap: d.gap},
		func(e *signalbox.Entry) error { return d.take(ctx, e) })
	if err == nil {
		if d.old {
			d.expire(end)
		}
		d.at = max(d.at, end)
	}
	d.old = false
	return err
}

// devices gives the numbers of the chosen devices that there are now, nil for all.
func (d *feed) devices() []signalbox.DeviceID {
	if d.want.devices == nil {
		return nil
	}
	d.want.ids = append(d.want.ids[:0], 0)[:0] // not nil, even if there is none
	for name := range d.want.devices {
		if device := d.f.m.parts.Devices.Find(name); device != nil {
			d.want.ids = append(d.want.ids, device.ID)
		}
	}
	slices.Sort(d.want.ids)
	return d.want.ids
}

// expire gives up what is too old, up to a position.
func (d *feed) expire(to signalbox.Position) {
	at := d.at
	d.at = d.aged
	d.skip(to, "max_age")
	d.at = max(at, to)
	d.old = false
}

// take makes a message of an entry, if it is wanted.
func (d *feed) take(ctx context.Context, e *signalbox.Entry) error {
	if e.ReceivedMicros < d.cutoff {
		if !d.old {
			d.old, d.aged = true, d.at
		}
		d.at = e.Position
		return nil
	}
	if d.old {
		d.expire(e.Position - 1)
	}
	if int(e.Kind) < len(d.want.kinds) && d.want.kinds[e.Kind] {
		d.encode(e)
	}
	d.at = e.Position
	if len(d.b.msgs) < d.f.m.limits.batch && len(d.b.buf) < batchBytes {
		return nil
	}
	return d.hand(ctx)
}

func (d *feed) encode(e *signalbox.Entry) {
	device := d.f.m.parts.Devices.Get(e.Device)
	if device == nil || d.want.devices != nil && !d.want.devices[device.Name] {
		return // it was removed meanwhile
	}
	typ := ""
	if d.want.types != nil || d.enc.format == FormatTemplate || d.enc.topic != nil {
		if typ = device.Type(); d.want.types != nil && !d.want.types[typ] {
			return
		}
	}
	d.enc.add(d.b, Message{
		Position: e.Position, Device: e.Device, Name: device.Name, Kind: e.Kind.String(), ReceivedMicros: e.ReceivedMicros, TimeMicros: e.TimeMicros,
		Redelivered: e.Position <= d.mark,
	}, e.Kind, typ, e.Body)
}

// hand gives a full batch to the sink in the midst of reading. It lets go of the log when that
// takes long, or others wait for their turn.
func (d *feed) hand(ctx context.Context) error {
	if d.turn && d.f.m.waiting.Load() > 0 && time.Since(d.began) > parkAfter {
		return errPark // the batch is handed over by run
	}
	b := d.finish()
	select {
	case d.out <- b:
		d.b = d.fresh(b.seq)
		return nil
	default:
	}
	timer := time.NewTimer(parkAfter)
	defer timer.Stop()
	select {
	case d.out <- b:
		d.b = d.fresh(b.seq)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errPark
	}
}

// finish makes the batch ready to be handed over.
func (d *feed) finish() *batch {
	d.b.scanned = d.at
	d.b.seal()
	return d.b
}

// send hands over what there is, when the log was let go.
func (d *feed) send(ctx context.Context) error {
	b := d.finish()
	select {
	case d.out <- b:
		d.b = d.fresh(b.seq)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
