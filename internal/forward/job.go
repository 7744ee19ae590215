package forward

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/replay"
	"signalbox/internal/store"
)

const (
	// resendPatience bounds how long Resend waits for the receiver.
	resendPatience = time.Minute
	// resendPage is how many dead letters are sent again at a time.
	resendPage = 64
	// lateReport is how long a sink may take to report what Flush said is settled.
	lateReport = time.Second
	// playedRun is added to the mark of the hub's run for what replays play, whose numbers
	// (Spec.Sequence) are their own.
	playedRun = "-replay"
)

// errAnew ends a session whose sink is to be opened anew, though nothing is wrong.
var errAnew = errors.New("the sink did not report what it flushed")

// job is what a forwarder sends besides the log: telemetry that a replay plays, or dead letters.
// The engine's goroutine works on it; whoever made it waits for done, or gives it up.
type job struct {
	events  []replay.Event // a copy
	devices []signalbox.DeviceID
	mark    replay.Mark
	letters []store.DeadLetter

	next  int // those before are done
	sent  int // those before may have been sent
	tried int // attempts for next
	// taken are the letters that the receiver has, denied why it did not take others.
	taken  []int64
	denied string

	canceled atomic.Bool
	done     chan error
}

func (j *job) len() int { return len(j.events) + len(j.letters) }

// endJob tells whoever made the job how it ended.
func (f *forwarder) endJob(err error) {
	f.job.done <- err
	f.job = nil
}

// submit has the engine do a job and waits for its end.
func (f *forwarder) submit(ctx context.Context, j *job) error {
	j.done = make(chan error, 1)
	select {
	case f.jobs <- j:
	case <-f.ended:
		return errStopping()
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-j.done:
		return err
	case <-f.ended:
		return errStopping()
	case <-ctx.Done():
		j.canceled.Store(true)
		return ctx.Err()
	}
}

func errStopping() error {
	return signalbox.Errorf(signalbox.KindUnavailable, "stopping", "the forwarder was removed, or the hub is stopping")
}

// exact says whether the transport tells of each message by its position. The others only say how
// far they are; what is sent besides the log has the position of what was sent before it, then.
func (s scheme) exact() bool { return !s.is("tcp", "tcp-listen", "udp", "ws", "wss") }

// play sends what is left of the job.
func (s *session) play(ctx context.Context) error {
	f := s.f
	for f.job != nil {
		j := f.job
		switch {
		case j.canceled.Load():
			f.job = nil
			return nil
		case j.next == j.len():
			f.endJob(nil)
			return nil
		}
		b := s.l.jobBatch(j)
		if len(b.msgs) == 0 {
			continue
		}
		n := len(b.msgs)
		if schemeOf(s.l.spec.To).exact() {
			if err := s.playExactly(ctx, j, b); err != nil {
				return err
			}
			continue
		}
		at := max(s.handed, f.place.cursor(), 1)
		for i := range b.msgs {
			b.msgs[i].Position = at
		}
		err := s.sink.Send(ctx, b.msgs)
		j.sent = max(j.sent, j.next+begunOf(b.msgs, err))
		if err != nil {
			return err
		}
		f.playSeq = b.seq
		s.l.played(j, n)
	}
	return nil
}

// playExactly sends a batch of a job when everything else is settled, and waits until it is, too.
func (s *session) playExactly(ctx context.Context, j *job, b *batch) error {
	if err := s.flush(ctx); err != nil {
		return err
	}
	s.played.Store(0)
	s.playing.Store(true)
	err := s.sink.Send(ctx, b.msgs)
	begun := begunOf(b.msgs, err)
	j.sent = max(j.sent, j.next+begun)
	if begun > 0 {
		s.connected()
	}
	if err == nil {
		bounded, cancel := context.WithTimeout(ctx, 2*s.l.spec.Timeout)
		if err = s.sink.Flush(bounded); err != nil && bounded.Err() != nil && ctx.Err() == nil {
			err = errStuck
		}
		cancel()
	}
	if err == nil {
		err = s.reported(ctx, b.msgs[len(b.msgs)-1].Position)
		s.l.played(j, len(b.msgs))
		if err == nil {
			s.playing.Store(false)
		}
		return err
	}
	if r, ok := errors.AsType[*Refused](err); ok && r.Position > 0 {
		s.take(r.Position - 1)
	}
	n := 0
	for n < len(b.msgs) && uint64(b.msgs[n].Position) <= s.played.Load() {
		n++
	}
	s.l.played(j, n)
	if r, ok := usable(err); ok {
		if again, err := s.l.jobRefused(r); err != nil {
			return &judged{again, err}
		}
		s.playing.Store(false)
		return nil
	}
	return err
}

// reported waits until the sink has reported everything: what it says later would be taken for
// something else.
func (s *session) reported(ctx context.Context, last signalbox.Position) error {
	timer := time.NewTimer(lateReport)
	defer timer.Stop()
	for s.played.Load() < uint64(last) {
		select {
		case <-s.moved:
		case <-timer.C:
			return errAnew
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// played notes that the receiver has the next n of a job.
func (l *life) played(j *job, n int) {
	if n == 0 {
		return
	}
	j.tried = 0
	if j.letters != nil {
		for i := range n {
			j.taken = append(j.taken, j.letters[j.next+i].ID)
		}
		l.f.stats.Resent.Add(int64(n))
	} else {
		l.f.stats.Replayed.Add(int64(n))
	}
	j.next += n
}

// jobRefused judges a message of a job that the receiver did not take: it is passed over.
func (l *life) jobRefused(r *Refused) (again time.Duration, err error) {
	j := l.f.job
	if j == nil || j.next == j.len() {
		return r.After, r
	}
	j.tried++
	if j.letters == nil && !r.Permanent && (l.spec.Attempts < 0 || j.tried < max(l.spec.Attempts, 1)) {
		return r.After, r
	}
	j.denied = Scrub(r.Reason, &l.spec)
	l.logger.Debug("a receiver refused a message of a replay, or a dead letter, once more", "status", r.Status)
	j.next, j.tried = j.next+1, 0
	return 0, nil
}

// jobBatch makes the next messages of a job.
func (l *life) jobBatch(j *job) *batch {
	b := &batch{seq: l.f.playSeq}
	if j.letters != nil {
		d := &j.letters[j.next]
		m := Message{
			Position: d.Position, Device: d.Device, Name: d.DeviceName, Kind: d.Kind.String(), Cursor: string(l.f.m.parts.Log.AppendCursor(nil, d.Position)),
			ReceivedMicros: d.ReceivedMicros, TimeMicros: d.TimeMicros, Body: asRedelivered(l.spec.Format, d.Body), Redelivered: true,
		}
		if !l.completeLetter(&m, d) {
			j.denied, j.next = "its topic or its text cannot be made again", j.next+1
			return b
		}
		b.msgs = append(b.msgs, m)
		return b
	}
	l.jobs.replay = j.mark
	for i := j.next; i < len(j.events) && len(b.msgs) < MaxBatch && len(b.buf) < batchBytes; i++ {
		e := &j.events[i]
		added := l.jobs.add(b, Message{
			Position: e.Position, Device: j.devices[i], Name: e.Device, Kind: signalbox.EntryTelemetry.String(),
			ReceivedMicros: e.ReceivedMicros, TimeMicros: e.TimeMicros, Redelivered: i < j.sent, Replay: j.mark.ID,
		}, signalbox.EntryTelemetry, l.typeOf(j.devices[i]), e.Object)
		if added && b.drafts[len(b.drafts)-1].reason == "" {
			continue
		}
		// It is nothing for this forwarder: what goes before it is sent first.
		if added {
			b.msgs, b.drafts = b.msgs[:len(b.msgs)-1], b.drafts[:len(b.drafts)-1]
		}
		if len(b.msgs) > 0 {
			break
		}
		j.next++
	}
	b.seal()
	return b
}

func (l *life) typeOf(id signalbox.DeviceID) string {
	if d := l.f.m.parts.Devices.Get(id); d != nil {
		return d.Type()
	}
	return ""
}

// completeLetter gives a dead letter what is not stored with it: its topic, and the object for a
// CloudEvent. It reports false when that cannot be had.
func (l *life) completeLetter(m *Message, d *store.DeadLetter) bool {
	if l.spec.Format == FormatTemplate && len(d.Body) == 0 {
		return false // it was too large
	}
	if l.spec.Format == FormatJSON {
		m.Data = objectIn(d.Body, d.Kind)
	}
	if l.jobs.topic == nil {
		return true
	}
	if m.Topic = l.jobs.fixed; m.Topic != "" {
		return true
	}
	object := objectIn(d.Body, d.Kind)
	var draft draft
	text := l.jobs.fill(nil, l.jobs.topic, m, l.typeOf(d.Device), object, gjson.ParseBytes(object), []byte(m.Cursor), &draft)
	m.Topic = string(text)
	return draft.reason == ""
}

// objectIn gives an entry's object out of its JSON line, nil without one.
func objectIn(body []byte, kind signalbox.EntryKind) []byte {
	member := "object"
	switch kind {
	case signalbox.EntryPresence, signalbox.EntryCommand:
		member = kind.String()
	default:
	}
	return []byte(gjson.GetBytes(body, member).Raw)
}

// playSink is a forwarder as a replay sees it.
type playSink struct {
	f       *forwarder
	carries bool
}

// Sink lets a replay play into a forwarder: in between what it sends anyway, in order, and with
// the replay's mark. It is no part of the forwarder's queue: a target that is away or slow holds
// the replay up. What a connection lost over TCP, UDP or WebSocket may be missing; what a
// receiver refuses for good is passed over. Fields and the format are the forwarder's, but the
// replay chooses devices. KindNotFound without such a forwarder; KindConflict when it is paused
// or forwards no telemetry. Receivers that acknowledge must not acknowledge what is played.
func (m *Manager) Sink(name string) (replay.Sink, error) {
	f, err := m.find(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	spec, broken := f.spec.Defaulted(), f.broken
	f.mu.Unlock()
	switch {
	case spec.Paused || broken != "":
		return nil, signalbox.Errorf(signalbox.KindConflict, "forwarder_paused", "the forwarder %q is paused, so nothing can be played into it", name)
	case !slices.Contains(spec.Kinds, signalbox.EntryTelemetry.String()):
		return nil, signalbox.Errorf(signalbox.KindConflict, "no_telemetry", "the forwarder %q forwards no telemetry (kinds), which is what a replay plays", name)
	}
	enc, err := m.encoder(&spec)
	if err != nil {
		return nil, err
	}
	return &playSink{f: f, carries: enc.carriesMark()}, nil
}

// CarriesMark implements replay.Sink.
func (p *playSink) CarriesMark() bool { return p.carries }

// Deliver implements replay.Sink.
func (p *playSink) Deliver(ctx context.Context, s *replay.Status, events []replay.Event) error {
	if p.f.stateNow() == StatePaused {
		return signalbox.Errorf(signalbox.KindConflict, "forwarder_paused", "the forwarder %q is paused, so nothing can be played into it", p.f.name)
	}
	j := &job{mark: s.Mark, events: slices.Clone(events), devices: make([]signalbox.DeviceID, len(events))}
	size := 0
	for i := range events {
		size += len(events[i].Object)
	}
	memory := make([]byte, 0, size)
	for i := range j.events {
		from := len(memory)
		memory = append(memory, events[i].Object...)
		j.events[i].Object = memory[from:len(memory):len(memory)]
		if d := p.f.m.parts.Devices.Find(events[i].Device); d != nil {
			j.devices[i] = d.ID
		}
	}
	return p.f.submit(ctx, j)
}

// Tell implements replay.Sink: receivers are told nothing of the replay itself.
func (p *playSink) Tell(context.Context, *replay.Status) error { return nil }

// Idle implements replay.Sink.
func (p *playSink) Idle(context.Context) error { return nil }
