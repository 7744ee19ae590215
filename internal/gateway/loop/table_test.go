package loop

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestDeadlines(t *testing.T) {
	var d deadlines
	start := time.Now()
	at := map[*Conn]time.Time{}
	conns := make([]*Conn, 300)
	for i := range conns {
		conns[i] = &Conn{heap: -1}
	}
	for range 3000 {
		c := conns[rand.IntN(len(conns))]
		if rand.IntN(3) == 0 {
			d.remove(c)
			delete(at, c)
			continue
		}
		at[c] = start.Add(time.Duration(rand.IntN(1000)))
		d.set(c, at[c])
	}
	if c := d.pop(start.Add(-1)); c != nil {
		t.Error("a connection is due too early")
	}
	last := start
	for c := d.pop(start.Add(time.Second)); c != nil; c = d.pop(start.Add(time.Second)) {
		if at[c].Before(last) || at[c].IsZero() {
			t.Fatal("wrong order")
		}
		last = at[c]
		delete(at, c)
	}
	if len(at) > 0 {
		t.Errorf("%d connections were forgotten", len(at))
	}
}

// TestTable checks that each connection is visited once in each TickInterval, and that slots are told apart by use.
func TestTable(t *testing.T) {
	for _, n := range []int{1, 7, 20, 33, 1000} {
		var tb table
		for range n {
			tb.add(&Conn{})
		}
		now, visits := time.Now(), map[*Conn]int{}
		for i := range sweepSteps {
			for _, c := range tb.due(now.Add(time.Duration(i) * TickInterval / sweepSteps)) {
				visits[c]++
			}
		}
		for _, c := range tb.slots {
			if visits[c] != 1 {
				t.Fatalf("%d connections: one was visited %d times", n, visits[c])
			}
		}
		c := tb.slots[0]
		slot, gen := c.slot, c.gen
		tb.remove(c)
		next := &Conn{}
		if tb.add(next); next.slot != slot || tb.get(slot, gen) != nil || tb.get(slot, next.gen) != next {
			t.Error("a slot's uses are not told apart")
		}
	}
}
