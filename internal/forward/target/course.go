package target

import (
	"context"
	"sync"
)

// course is what all sinks share that settle what they sent bit by bit: how they come to their end,
// and those who wait for them.
type course struct {
	mu     sync.Mutex    // for the sink's own state as well
	broken chan struct{} // closed with err
	moved  chan struct{} // closed and made anew when something was settled
	err    error         // why it is of no use any more
}

func newCourse() course {
	return course{broken: make(chan struct{}), moved: make(chan struct{})}
}

// Broken implements forward.Sink.
func (c *course) Broken() <-chan struct{} { return c.broken }

// Err implements forward.Sink.
func (c *course) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// fail makes the sink useless, for the first reason that is given, and returns that.
func (c *course) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fails(err)
}

// fails is fail; the caller holds mu.
func (c *course) fails(err error) error {
	if c.err == nil {
		c.err = err
		close(c.broken)
	}
	return c.err
}

// wake tells those who wait that something was settled. The caller holds mu.
func (c *course) wake() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// await waits until done, which is asked with mu held whenever something was settled. It ends with
// the sink's error or ctx's.
func (c *course) await(ctx context.Context, done func() bool) error {
	for {
		c.mu.Lock()
		ok, moved := done(), c.moved
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-c.broken:
			return c.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
