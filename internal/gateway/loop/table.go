package loop

import "time"

// sweepSteps is in how many portions the ticks of TickInterval are given.
const sweepSteps = 20

// table holds connections by slot and visits them in portions. It is guarded by its owner.
type table struct {
	slots []*Conn
	gens  []uint32 // uses of each slot
	free  []uint32
	live  int
	step  int       // the next portion, below sweepSteps
	next  time.Time // when it is due
}

func (t *table) add(c *Conn) {
	if n := len(t.free); n > 0 {
		c.slot = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		c.slot = uint32(len(t.slots))
		t.slots = append(t.slots, nil)
		t.gens = append(t.gens, 0)
	}
	t.gens[c.slot]++
	c.gen = t.gens[c.slot]
	t.slots[c.slot] = c
	t.live++
}

func (t *table) remove(c *Conn) {
	t.slots[c.slot] = nil
	t.free = append(t.free, c.slot)
	t.live--
}

// get returns the connection that uses the slot for the gen-th time, or nil.
func (t *table) get(slot, gen uint32) *Conn {
	if int(slot) >= len(t.slots) || t.gens[slot] != gen {
		return nil
	}
	return t.slots[slot]
}

// due returns the slots to be visited now, none if it is too early. When portions were missed they are not made up for:
// ticks then come later.
func (t *table) due(now time.Time) []*Conn {
	if now.Before(t.next) {
		return nil
	}
	t.next = now.Add(TickInterval / sweepSteps)
	step := t.step
	t.step = (step + 1) % sweepSteps
	return t.slots[len(t.slots)*step/sweepSteps : len(t.slots)*(step+1)/sweepSteps]
}

// deadlines is a heap of connections that something has to be done for at a time. Each connection knows its place.
type deadlines []deadline

type deadline struct {
	at time.Time
	c  *Conn
}

// set plans c for at, replacing what was planned for it.
func (d *deadlines) set(c *Conn, at time.Time) {
	if c.heap < 0 {
		*d = append(*d, deadline{})
		c.heap = int32(len(*d) - 1)
	}
	i := int(c.heap)
	(*d)[i] = deadline{at: at, c: c}
	d.down(d.up(i))
}

// remove forgets what was planned for c.
func (d *deadlines) remove(c *Conn) {
	if c.heap < 0 {
		return
	}
	i, last := int(c.heap), len(*d)-1
	c.heap = -1
	moved := (*d)[last]
	(*d)[last] = deadline{}
	*d = (*d)[:last]
	if i < last {
		(*d)[i] = moved
		moved.c.heap = int32(i)
		d.down(d.up(i))
	}
}

// pop returns a connection whose time has come, or nil.
func (d *deadlines) pop(now time.Time) *Conn {
	if len(*d) == 0 || (*d)[0].at.After(now) {
		return nil
	}
	c := (*d)[0].c
	d.remove(c)
	return c
}

func (d *deadlines) up(i int) int {
	h := *d
	for i > 0 {
		parent := (i - 1) / 2
		if !h[i].at.Before(h[parent].at) {
			break
		}
		d.swap(i, parent)
		i = parent
	}
	return i
}

func (d *deadlines) down(i int) {
	h := *d
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h[child+1].at.Before(h[child].at) {
			child++
		}
		if !h[child].at.Before(h[i].at) {
			return
		}
		d.swap(i, child)
		i = child
	}
}

func (d *deadlines) swap(i, j int) {
	h := *d
	h[i], h[j] = h[j], h[i]
	h[i].c.heap, h[j].c.heap = int32(i), int32(j)
}
