package history

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"signalbox"
)

// progress is a position that grows, for which one can wait. Its zero value stands at 0 and
// must be given ended before it is waited for.
type progress struct {
	at      atomic.Uint64
	mu      sync.Mutex
	waiters []waiter
	ended   chan struct{} // closed when it will not grow any more
}

type waiter struct {
	pos  signalbox.Position
	done chan struct{}
}

// now is where it stands.
func (p *progress) now() signalbox.Position { return signalbox.Position(p.at.Load()) }

// reach moves on to pos.
func (p *progress) reach(pos signalbox.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at.Store(uint64(pos))
	kept := p.waiters[:0]
	for _, w := range p.waiters {
		if w.pos <= pos {
			close(w.done)
		} else {
			kept = append(kept, w)
		}
	}
	clear(p.waiters[len(kept):])
	p.waiters = kept
}

// wait returns when it has reached pos; otherwise with ctx's error, or when it has ended with
// KindUnavailable.
func (p *progress) wait(ctx context.Context, pos signalbox.Position) error {
	if p.now() >= pos {
		return nil
	}
	p.mu.Lock()
	if p.now() >= pos {
		p.mu.Unlock()
		return nil
	}
	w := waiter{pos: pos, done: make(chan struct{})}
	p.waiters = append(p.waiters, w)
	p.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-p.ended:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.waiters, func(other waiter) bool { return other.done == w.done })
	if i < 0 {
		return nil // reached in the last moment
	}
	p.waiters = slices.Delete(p.waiters, i, i+1)
	if err := ctx.Err(); err != nil {
		return err
	}
	return errStopping()
}
