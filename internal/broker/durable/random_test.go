package durable

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store/storetest"
)

// step is a change: what it does to the model, once its position is on disk.
type step struct {
	at    signalbox.Position
	apply func(*model)
}

// player makes random changes, and knows what has come of them.
type player struct {
	rng   *rand.Rand
	now   *model // all that was done
	steps []step
	used  map[SessionID]bool // of sessions whose records came to disk
	large bool               // some messages are
}

func newPlayer(seed uint64) *player {
	return &player{rng: rand.New(rand.NewPCG(seed, 7)), now: newModel(), used: map[SessionID]bool{}}
}

// cut forgets what is behind the end of the log, as a kill does.
func (p *player) cut(end signalbox.Position) {
	p.now = newModel()
	i := 0
	for ; i < len(p.steps) && p.steps[i].at <= end; i++ {
		p.steps[i].apply(p.now)
	}
	p.steps = p.steps[:i]
	for id := range p.now.sessions {
		p.used[id] = true
	}
}

// does appends the record, at times behind telemetry in the same commit.
func (p *player) does(t *testing.T, h *hub, r *Record, apply func(*model)) {
	t.Helper()
	var at signalbox.Position
	if p.rng.IntN(4) == 0 {
		e := signalbox.Entry{Device: 1, Kind: signalbox.EntryTelemetry, Body: []byte(`{"a":1}`)}
		if err := h.log.AppendBoth(&e, &r.Entry, history.Urgency(p.rng.IntN(3))); err != nil {
			t.Fatal(err)
		}
		at = h.k.Done(r)
	} else {
		at = h.put(t, r)
	}
	apply(p.now)
	p.steps = append(p.steps, step{at, apply})
}

// some gives a session, 0 without one.
func (p *player) some() SessionID {
	ids := make([]SessionID, 0, len(p.now.sessions))
	for id := range p.now.sessions {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return 0
	}
	slices.Sort(ids)
	return ids[p.rng.IntN(len(ids))]
}

func (p *player) message() Message {
	m := Message{Topic: fmt.Sprintf("t/%d", p.rng.IntN(12)), QoS: uint8(p.rng.IntN(3)), Retain: p.rng.IntN(2) == 0}
	size := p.rng.IntN(60)
	if p.large && p.rng.IntN(10) == 0 {
		size = p.rng.IntN(90_000)
	}
	m.Payload = make([]byte, size)
	for i := range m.Payload {
		m.Payload[i] = byte(p.rng.IntN(1 << (1 + p.rng.IntN(8))))
	}
	if p.rng.IntN(3) == 0 {
		m.Properties = []byte{1, 1}
		m.From = fmt.Sprintf("d%d", p.rng.IntN(100))
		m.ExpiresAt = time.UnixMilli(1_700_000_000_000 + p.rng.Int64N(1e9)).UTC()
	}
	return plainMessage(m)
}

func (p *player) will() *Will {
	if p.rng.IntN(3) == 0 {
		return nil
	}
	return &Will{Message: p.message(), Delay: time.Duration(p.rng.IntN(5)) * time.Second}
}

func (p *player) subs() (subs []Subscription) {
	for i := range p.rng.IntN(4) {
		subs = append(subs, Subscription{
			Filter: fmt.Sprintf("f/%d", 4*p.rng.IntN(3)+i), QoS: uint8(p.rng.IntN(3)), NoLocal: p.rng.IntN(2) == 0,
			RetainAsPublished: p.rng.IntN(2) == 0, Handling: uint8(p.rng.IntN(3)), ID: uint32(p.rng.IntN(2) * p.rng.IntN(1<<28)),
		})
	}
	return subs
}

// play makes one change.
func (p *player) play(t *testing.T, h *hub) {
	t.Helper()
	id := p.some()
	what := p.rng.IntN(40)
	if id == 0 {
		what = 0
	}
	switch {
	case what < 3:
		p.begin(t, h, id)
	case what < 4:
		p.does(t, h, h.k.End(id), func(m *model) { delete(m.sessions, id) })
	case what < 6:
		sent := p.rng.Uint64N(1000)
		at, expiry, keep := time.UnixMilli(1_600_000_000_000+p.rng.Int64N(1e9)).UTC(), time.Duration(p.rng.IntN(100)-1)*time.Second, p.rng.IntN(2) == 0
		p.does(t, h, h.k.Close(id, at, expiry, sent, keep), func(m *model) {
			s := m.sessions[id]
			s.Connected, s.ClosedAt, s.Expiry, s.Sent = false, at, max(expiry, -1), sent
			if !keep {
				s.Will = nil
			}
		})
	case what < 8:
		subs := p.subs()
		p.does(t, h, h.k.Subscribe(id, subs), func(m *model) { m.sessions[id].subscribe(subs) })
	case what < 10:
		filters := []string{fmt.Sprintf("f/%d", p.rng.IntN(12)), fmt.Sprintf("f/%d", p.rng.IntN(12))}
		p.does(t, h, h.k.Unsubscribe(id, filters), func(m *model) {
			s := m.sessions[id]
			s.Subscriptions = slices.DeleteFunc(s.Subscriptions, func(s Subscription) bool { return slices.Contains(filters, s.Filter) })
		})
	case what < 11:
		w := p.will()
		p.does(t, h, h.k.SetWill(id, w), func(m *model) { m.sessions[id].Will = w })
	case what < 17:
		p.ack(t, h, id)
	case what < 19:
		packet := uint16(1 + p.rng.IntN(30))
		p.does(t, h, h.k.Forget(id, packet), func(m *model) {
			s := m.sessions[id]
			s.Received = slices.DeleteFunc(s.Received, func(have uint16) bool { return have == packet })
		})
	case what < 20:
		packet := uint16(1 + p.rng.IntN(30))
		p.does(t, h, h.k.Received(id, packet), func(m *model) { m.sessions[id].receive(packet) })
	case what < 21:
		p.does(t, h, h.k.Given(id), func(m *model) { m.sessions[id].Given = nil })
	default:
		p.publish(t, h, id)
	}
}

func (s *modelSession) receive(packet uint16) {
	if packet != 0 && !slices.Contains(s.Received, packet) {
		s.Received = append(s.Received, packet)
	}
}

func (s *modelSession) subscribe(subs []Subscription) {
	for _, sub := range subs {
		if i := slices.IndexFunc(s.Subscriptions, func(h Subscription) bool { return h.Filter == sub.Filter }); i >= 0 {
			s.Subscriptions[i] = sub
		} else {
			s.Subscriptions = append(s.Subscriptions, sub)
		}
	}
}

// begin begins a session, or resumes this one.
func (p *player) begin(t *testing.T, h *hub, id SessionID) {
	t.Helper()
	if id == 0 || len(p.now.sessions) < 12 && p.rng.IntN(2) == 0 {
		if id = h.k.NewID(); p.used[id] || p.now.sessions[id] != nil {
			t.Fatalf("session %d is given a second time", id)
		}
	}
	s := Session{
		ID: id, Owner: fmt.Sprintf("d%d", p.rng.IntN(9)), ClientID: fmt.Sprintf("c%d", p.rng.IntN(9)), Volatile: p.rng.IntN(5) == 0,
		Expiry: time.Duration(p.rng.IntN(100)-1) * time.Second, Will: p.will(), Subscriptions: p.subs(),
		Sent: p.rng.Uint64N(1000),
	}
	p.does(t, h, h.k.Begin(&s), func(m *model) {
		have := m.sessions[id]
		if have == nil {
			have = &modelSession{Session: Session{Acked: 1, Next: 1}, queue: map[uint64]Item{}}
			m.sessions[id] = have
		}
		have.ID, have.Owner, have.ClientID, have.Volatile, have.Will = s.ID, s.Owner, s.ClientID, s.Volatile, s.Will
		have.Expiry, have.Connected, have.ClosedAt, have.Sent = max(s.Expiry, -1), true, time.Time{}, s.Sent
		have.subscribe(s.Subscriptions)
	})
}

func (p *player) publish(t *testing.T, h *hub, id SessionID) {
	t.Helper()
	m := p.message()
	var targets []Target
	for to, s := range p.now.sessions {
		if p.rng.IntN(3) == 0 {
			target := Target{Session: to, N: s.Next, QoS: uint8(1 + p.rng.IntN(2)), Retain: p.rng.IntN(2) == 0, Given: p.rng.IntN(20) == 0}
			for range p.rng.IntN(3) {
				target.IDs = append(target.IDs, uint32(1+p.rng.IntN(1000)))
			}
			targets = append(targets, target)
		}
	}
	retain := p.rng.IntN(2) == 0
	packet := uint16(p.rng.IntN(2) * (1 + p.rng.IntN(30)))
	r := h.k.Publish(&m, targets, retain, id, packet)
	apply := func(all *model) {
		for _, target := range targets {
			s := all.sessions[target.Session]
			if target.Given && target.QoS == 2 {
				s.Given = append(s.Given, TopicHash(m.Topic))
			}
			target.Given = false
			s.queue[target.N], s.Next = Item{Target: target, Message: &m}, target.N+1
		}
		all.sessions[id].receive(packet)
		if retain && len(m.Payload) > 0 {
			all.retained[m.Topic] = m
		} else if retain {
			delete(all.retained, m.Topic)
		}
	}
	if len(targets) == 0 || p.rng.IntN(6) > 0 {
		p.does(t, h, r, apply)
		return
	}
	back := h.k.Retract(targets)
	first, second := p.append(t, h, r), p.append(t, h, back)
	h.k.DoneBoth(r, back)
	retract := func(all *model) {
		for _, target := range targets {
			s := all.sessions[target.Session]
			delete(s.queue, target.N)
			s.Next = target.N
		}
	}
	apply(p.now)
	retract(p.now)
	p.steps = append(p.steps, step{first, apply}, step{second, retract})
}

// append appends a record that is not done yet.
func (p *player) append(t *testing.T, h *hub, r *Record) signalbox.Position {
	t.Helper()
	for end := time.Now().Add(patience); ; h.flush(t) {
		err := h.log.Append(&r.Entry, history.Urgency(p.rng.IntN(3)))
		if err == nil {
			return r.Entry.Position
		}
		if !errors.Is(err, history.ErrFull) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func (p *player) ack(t *testing.T, h *hub, id SessionID) {
	t.Helper()
	s := p.now.sessions[id]
	acked := s.Acked
	if s.Next > acked {
		acked += p.rng.Uint64N(min(s.Next-acked, 20) + 1)
	}
	var done, released []uint64
	for n := acked; n < min(s.Next, acked+10); n++ {
		switch {
		case slices.Contains(s.Done, n) || p.rng.IntN(5) == 0:
			done = append(done, n)
		case p.rng.IntN(5) == 0:
			released = append(released, n)
		}
	}
	sent := p.rng.Uint64N(1000)
	p.does(t, h, h.k.Acked(id, acked, sent, done, released), func(m *model) {
		s := m.sessions[id]
		s.Acked, s.Sent, s.Done, s.Released = acked, sent, slices.Clone(done), slices.Clone(released)
	})
}

// narrow makes transactions and rows small, so that there are many.
func narrow(h *hub, seed uint64) {
	if seed%3 > 0 {
		h.k.turn.Lock()
		h.k.bounds = bounds{least: 2, most: 4, bytes: 3000, rowMessages: 5, rowBytes: 1000}
		h.k.turn.Unlock()
	}
}

// TestRandomLives plays a random history over several lives, each of which ends without a last
// writing of the tables; the next finds what the model has.
func TestRandomLives(t *testing.T) {
	seeds := 4
	if storetest.Running() != storetest.SQLite {
		seeds = 1
	}
	for range seeds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dir, p := t.TempDir(), newPlayer(seed)
			p.large = seed%2 == 0
			cfg := Config{Delay: time.Nanosecond}
			h := life(t, dir, cfg)
			narrow(h, seed)
			for round := range 8 {
				for range 20 + p.rng.IntN(400) {
					p.play(t, h)
					switch p.rng.IntN(60) {
					case 0:
						if _, err := h.k.write(t.Context(), p.rng.IntN(2) == 0); err != nil {
							t.Fatal(err)
						}
					case 1:
						if id := p.some(); id != 0 {
							s := p.now.sessions[id]
							s.checkQueue(t, h, "meanwhile", id, p.rng.Uint64N(s.Next+2), 1+p.rng.IntN(30))
						}
					}
				}
				if p.rng.IntN(3) == 0 {
					h.flush(t)
					if n := h.k.Stats().Pending.Load(); n != 0 {
						t.Errorf("%d bytes are pending after all is written", n)
					}
				}
				h.end()
				h = life(t, dir, cfg)
				narrow(h, seed)
				p.cut(h.log.Committed())
				p.now.check(t, h, fmt.Sprintf("round %d", round))
			}
			h.flush(t)
			if twice := h.count(t, `SELECT COUNT(*) FROM broker_queue a, broker_queue b WHERE a.session = b.session AND a.id < b.id AND a.n0 <= b.n1 AND b.n0 <= a.n1`); twice != 0 {
				t.Errorf("%d rows have the same messages as others", twice)
			}
			if left := h.count(t, `SELECT COUNT(*) FROM broker_queue WHERE session NOT IN (SELECT id FROM broker_session)`); left != 0 {
				t.Errorf("%d rows are left of queues of sessions that are gone", left)
			}
		})
	}
}

// TestKill copies the database at random moments while changes are made and tables are written, as
// kill -9 would leave it. At times the hub goes on from the copy.
func TestKill(t *testing.T) {
	if storetest.Running() != storetest.SQLite {
		return
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	p := newPlayer(seed)
	p.large = true
	cfg := Config{Delay: 3 * time.Millisecond}
	dir := t.TempDir()
	h := life(t, dir, cfg)
	narrow(h, seed)
	stop := h.runs(t)
	for round := range 12 {
		for range p.rng.IntN(1500) {
			p.play(t, h)
		}
		from := copied(t, dir)
		again := lifeAt(t, from, cfg)
		end := again.log.Committed()
		if round%3 != 2 {
			was := *p
			was.cut(end)
			was.now.check(t, again, fmt.Sprintf("round %d", round))
			again.end()
			for id := range was.used {
				p.used[id] = true
			}
			continue
		}
		stop()
		h.end()
		h, dir = again, from.Dir
		p.cut(end)
		p.now.check(t, h, fmt.Sprintf("round %d", round))
		narrow(h, seed)
		stop = h.runs(t)
	}
}
