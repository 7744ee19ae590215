package broker_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/broker"
	"signalbox/internal/history"
	"signalbox/internal/wire/packet"
)

// TestExactlyOnceLeavesAfterTheCommit looks that no message with quality of service 2 leaves to a
// session on disk before its record is there, for a kill would give its identifier to another.
func TestExactlyOnceLeavesAfterTheCommit(t *testing.T) {
	h := disk(t, t.TempDir(), broker.Config{WindowMessages: 8}, nil)
	sub, from := h.connect(t, "sub", expiry(1000)), h.connect(t, "from")
	sub.subscribe(t, filter("q/#", 2))
	for i := range 60 {
		before := h.log.Head()
		from.publish(t, "q/x", fmt.Sprint(i), 2, uint16(i+1))
		g := sub.want(t, packet.PUBLISH)
		if done := h.log.Committed(); done <= before {
			t.Fatalf("message %d came while the log was on disk up to %d, its record is behind %d", i, done, before)
		}
		from.want(t, packet.PUBREC)
		from.ack(packet.PUBREL, uint16(i+1))
		from.want(t, packet.PUBCOMP)
		sub.ack(packet.PUBREC, g.ID)
		sub.want(t, packet.PUBREL)
		sub.ack(packet.PUBCOMP, g.ID)
	}
}

// TestOrderAroundAWait has messages with quality of service 1 and 2 take turns: those that need
// not wait for the commit do not overtake those that do, also out of a window that is read.
func TestOrderAroundAWait(t *testing.T) {
	const many = 300
	h := disk(t, t.TempDir(), broker.Config{WindowMessages: 8}, nil)
	sub, from := h.connect(t, "sub", expiry(1000)), h.connect(t, "from")
	sub.subscribe(t, filter("q", 2))
	for i := range many {
		from.publish(t, "q", fmt.Sprint(i), uint8(1+i%3%2), uint16(i%200+1))
		if g := from.next(t); g.Type == packet.PUBREC {
			from.ack(packet.PUBREL, g.ID)
			from.want(t, packet.PUBCOMP)
		}
	}
	for seen := 0; seen < many; {
		switch g := sub.next(t); {
		case g.Type == packet.PUBREL:
			sub.ack(packet.PUBCOMP, g.ID)
		case g.payload != fmt.Sprint(seen):
			t.Fatalf("got %q, want %d", g.payload, seen)
		default:
			seen++
			if g.QoS == 1 {
				sub.ack(packet.PUBACK, g.ID)
			} else {
				sub.ack(packet.PUBREC, g.ID)
			}
		}
	}
}

// TestDuplicateOverAKill publishes with quality of service 2 what the Taker has already: the
// identifier is kept over a kill, and queues have no gap.
func TestDuplicateOverAKill(t *testing.T) {
	dir := t.TempDir()
	j := &judge{verdict: broker.Pass}
	taker := func(l *history.Log) broker.Taker { j.log = l; return j }
	h := disk(t, dir, broker.Config{}, taker)
	from, away := h.connect(t, "from", expiry(1000)), h.connect(t, "away", expiry(1000))
	away.subscribe(t, filter("x", 1))
	away.Closed(true, nil, time.Now())
	j.verdict = broker.Duplicate
	from.publish(t, "x", "known", 1, 7, retain)
	from.want(t, packet.PUBACK)
	from.publish(t, "x", "known", 2, 8, retain)
	from.want(t, packet.PUBREC)
	if n := h.Stats().Retained.Load(); n != 0 {
		t.Errorf("%d are retained", n)
	}
	h.kill()
	h = disk(t, dir, broker.Config{}, taker)
	from = h.connect(t, "from", expiry(1000), resume)
	from.ack(packet.PUBREL, 8)
	if g := from.want(t, packet.PUBCOMP); g.Reason != packet.Success {
		t.Errorf("PUBCOMP %#x", g.Reason)
	}
	j.verdict = broker.Taken
	for i := range 3 {
		from.publish(t, "x", fmt.Sprint(i), 1, uint16(i+1))
		from.want(t, packet.PUBACK)
	}
	away = h.connect(t, "away", resume, expiry(1000))
	for i := range 3 {
		if g := away.want(t, packet.PUBLISH); g.payload != fmt.Sprint(i) || g.ID != uint16(i+2) {
			t.Errorf("got %q as %d, want %d", g.payload, g.ID, i)
		}
	}
	if n := h.Stats().Lost.Load(); n != 0 {
		t.Errorf("%d were lost", n)
	}
}

// TestQuietGivesNumbersBack has the Taker keep messages to itself that a queue had a number for:
// nothing of them is left in it.
func TestQuietGivesNumbersBack(t *testing.T) {
	dir := t.TempDir()
	j := &judge{verdict: broker.Taken}
	taker := func(l *history.Log) broker.Taker { j.log = l; return j }
	h := disk(t, dir, broker.Config{}, taker)
	from, away, there := h.connect(t, "from"), h.connect(t, "away", expiry(1000)), h.connect(t, "there", expiry(1000))
	away.subscribe(t, filter("x", 1))
	there.subscribe(t, filter("x", 1))
	away.Closed(true, nil, time.Now())
	for i := range 100 {
		j.quiet = i > 0 && i < 99
		from.publish(t, "x", fmt.Sprint(i), 1, uint16(i+1))
		from.want(t, packet.PUBACK)
	}
	check := func(c *client, first, id int) {
		t.Helper()
		if g := c.want(t, packet.PUBLISH); g.payload != fmt.Sprint(first) || g.ID != uint16(id) {
			t.Errorf("got %q as %d, want %d as %d", g.payload, g.ID, first, id)
		}
	}
	check(there, 0, 2)
	check(there, 99, 3)
	h.kill()
	h = disk(t, dir, broker.Config{}, taker)
	away = h.connect(t, "away", resume, expiry(1000))
	check(away, 0, 2)
	check(away, 99, 3)
	away.none(t)
}

// TestExpiryCountsFromTheStart: a session that was connected until a kill, with nothing new in
// the log for longer than its expiry, is there for its client.
func TestExpiryCountsFromTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := disk(t, dir, broker.Config{}, nil)
	h.connect(t, "c", expiry(5))
	select {
	case <-time.After(5500 * time.Millisecond):
	case <-t.Context().Done():
	}
	h.kill()
	h = disk(t, dir, broker.Config{}, nil)
	if !h.connect(t, "c", resume, expiry(5)).connack.SessionPresent {
		t.Error("the session is gone")
	}
}

// TestGivingGoesOn ends the connection, or the hub, while the retained messages of a subscription
// are given: the session gets the rest, and none with quality of service 2 a second time.
func TestGivingGoesOn(t *testing.T) {
	const many = 400
	for _, qos := range []uint8{1, 2} {
		for _, kill := range []bool{false, true} {
			for _, some := range []int{0, 30} {
				t.Run(fmt.Sprintf("QoS %d, kill %t after %d", qos, kill, some), func(t *testing.T) {
					dir := t.TempDir()
					h := disk(t, dir, broker.Config{}, nil)
					from := h.connect(t, "from")
					for i := range many {
						from.publish(t, fmt.Sprintf("r/%d", i), "x", 1, uint16(i+1), retain)
						from.want(t, packet.PUBACK)
					}
					from.publish(t, "r/0", "x", 2, 1, retain)
					for i := range many {
						if qos == 2 {
							from.next(t)
							from.ack(packet.PUBREL, uint16(i+1))
							from.want(t, packet.PUBCOMP)
							if i+1 < many {
								from.publish(t, fmt.Sprintf("r/%d", i+1), "x", 2, uint16(i+2), retain)
							}
						}
					}
					seen := map[string]int{}
					sub := h.connect(t, "sub", expiry(1000), window(10))
					sub.subscribe(t, filter("r/+", qos))
					take(t, sub, seen, some, patience)
					if kill {
						h.kill()
						h = disk(t, dir, broker.Config{}, nil)
					} else {
						sub.Closed(false, nil, time.Now())
					}
					sub = h.connect(t, "sub", resume, expiry(1000), window(10))
					take(t, sub, seen, many, patience)
					if len(seen) != many {
						t.Errorf("%d of %d came", len(seen), many)
					}
					for topic, n := range seen {
						if qos == 2 && n > 1 {
							t.Errorf("%s came %d times", topic, n)
						}
					}
					eventually(t, "all is settled", func() bool {
						take(t, sub, seen, many+1, 300*time.Millisecond)
						return h.Stats().QueuedMessages.Load() == 0
					})
					sub.Closed(true, nil, time.Now())
					h.kill() // it is over, on disk as well
					h = disk(t, dir, broker.Config{}, nil)
					sub = h.connect(t, "sub", resume, expiry(1000))
					if g, ok := sub.poll(200 * time.Millisecond); ok && g.Type == packet.PUBLISH {
						t.Errorf("%s came again", g.topic)
					}
				})
			}
		}
	}
}

// take takes and completes messages until so many topics were seen, or nothing comes for a time.
func take(t *testing.T, c *client, seen map[string]int, most int, quiet time.Duration) {
	t.Helper()
	open := 0
	for len(seen) < most || open > 0 {
		g, ok := c.poll(quiet)
		if !ok {
			return
		}
		switch g.Type {
		case packet.PUBLISH:
			if !g.Dup {
				seen[g.topic]++
			} else if seen[g.topic] == 0 {
				seen[g.topic] = 1
			}
			if g.QoS == 1 {
				c.ack(packet.PUBACK, g.ID)
				break
			}
			open++
			c.ack(packet.PUBREC, g.ID)
		case packet.PUBREL:
			open--
			c.ack(packet.PUBCOMP, g.ID)
		default:
			t.Fatalf("a packet of type %d", g.Type)
		}
	}
}

// TestCleanStartIsOnDisk: CONNACK of a session in memory waits for the end of the one on disk whose
// place it takes.
func TestCleanStartIsOnDisk(t *testing.T) {
	h := disk(t, t.TempDir(), broker.Config{}, nil)
	for range 20 {
		c := h.connect(t, "c", expiry(1000))
		c.Closed(true, nil, time.Now())
		before := h.log.Head()
		c = h.connect(t, "c")
		if done := h.log.Committed(); done <= before {
			t.Fatalf("CONNACK came while the log was on disk up to %d, the end is behind %d", done, before)
		}
		c.Closed(true, nil, time.Now())
	}
}

// TestWillBeforeTheEnd: the record of a will that a start publishes stands before the one of its
// session's end, so that a kill in between cannot lose it.
func TestWillBeforeTheEnd(t *testing.T) {
	dir := t.TempDir()
	h := disk(t, dir, broker.Config{}, nil)
	h.connect(t, "volatile", will("w", "gone", 1, 0))
	watch := h.connect(t, "watch", expiry(1000))
	watch.subscribe(t, filter("w", 1))
	h.kill()
	h = disk(t, dir, broker.Config{}, nil)
	watch = h.connect(t, "watch", resume, expiry(1000))
	watch.want(t, packet.PUBLISH)
	const publish, end = 1, 4 // kinds of record
	var published, ended signalbox.Position
	eventually(t, "both are recorded", func() bool {
		err := h.log.Scan(t.Context(), 1, func(e *signalbox.Entry) error {
			switch {
			case e.Kind != signalbox.EntryBroker:
			case e.Body[1] == publish:
				published = e.Position
			case e.Body[1] == end:
				ended = e.Position
			}
			return nil
		})
		return err == nil && published > 0 && ended > 0
	})
	if ended < published {
		t.Errorf("the end is at %d, the will at %d", ended, published)
	}
}

// TestWillsAndReturns has clients come back while their wills are published.
func TestWillsAndReturns(t *testing.T) {
	h := disk(t, t.TempDir(), broker.Config{}, nil)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			id := fmt.Sprint("c", i)
			for range 25 {
				c := h.connect(t, id, resume, expiry(1000), will("w", "gone", 1, 0))
				c.Closed(false, nil, time.Now())
			}
		})
	}
	all.Wait()
}
