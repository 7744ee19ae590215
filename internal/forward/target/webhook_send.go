package target

import (
	"context"
	"errors"
	"slices"
	"sync"

	"signalbox"
	"signalbox/internal/forward"
)

// webhookSink sends the messages of a batch, each in a request of its own, and returns when all are
// answered.
//
// Order. Of one device one request is under way at a time, and the next goes out when that one was
// answered with 2xx. Different devices go side by side, Parallel of them, the oldest message first.
// The batch is a barrier: there is no request under way between two calls of Send, so that order
// between batches needs no thought, and a Close or a change of the forwarder finds nothing to wait
// for. It costs the time in which the last requests of a batch are fewer than Parallel.
//
// Settled is the position before the oldest message that is not answered with 2xx.
//
// Refusals. The contract of Send wants everything before a refused message to be settled. So after a
// refusal only messages older than it are still begun, and those under way are waited for; the
// oldest refusal is the one that Send tells. Its device waits meanwhile, permanent refusal or not:
// the message has to become a dead letter first. What younger messages of other devices were
// answered stays known to the target (type beyond), and is not sent again when the batch comes back.
//
// Faults. When a request has no answer nothing more is begun: the receiver is most likely away, and
// each further request would wait as long. A message for which there was no connection was not begun,
// nor was what is behind the last that was: *forward.Unsent tells so.
type webhookSink struct {
	*webhook
	settled func(signalbox.Position)
}

// Send implements forward.Sink.
func (s *webhookSink) Send(ctx context.Context, batch []forward.Message) error {
	if len(batch) == 0 {
		return ctx.Err()
	}
	r := newWebhookRun(s, batch)
	r.send(ctx)
	return r.result(ctx)
}

// Flush implements forward.Sink. Nothing is under way between two calls of Send.
func (s *webhookSink) Flush(ctx context.Context) error { return ctx.Err() }

// Broken implements forward.Sink: a sink without a connection cannot break by itself.
func (s *webhookSink) Broken() <-chan struct{} { return nil }

// Err implements forward.Sink.
func (s *webhookSink) Err() error { return nil }

// Close implements forward.Sink. The target keeps its connections for the next.
func (s *webhookSink) Close() error { return nil }

// webhookRun is one call of Send. Only its own goroutine touches it; workers get indexes of
// messages and give back what became of them.
type webhookRun struct {
	sink  *webhookSink
	batch []forward.Message
	done  []bool
	// follower is, of each message, the next one of the same device: an index, or 0.
	follower []int
	// ready are the messages that may be begun, in order.
	ready []int
	// until is the index from which on nothing is begun any more.
	until int
	// settled is the index of the oldest message that is not done.
	settled int
	// begun is the index behind the last message that had a connection.
	begun  int
	failed map[int]error
}

type outcome struct {
	index int
	begun bool
	err   error
}

func newWebhookRun(s *webhookSink, batch []forward.Message) *webhookRun {
	r := &webhookRun{
		sink: s, batch: batch, done: make([]bool, len(batch)), follower: make([]int, len(batch)),
		until: len(batch), failed: make(map[int]error),
	}
	last := make(map[signalbox.DeviceID]int)
	for i := range batch {
		m := &batch[i]
		if s.beyond.has(m) {
			r.done[i] = true
			continue
		}
		if before, has := last[m.Device]; has {
			r.follower[before] = i
		} else {
			r.ready = append(r.ready, i)
		}
		last[m.Device] = i
	}
	r.advance()
	return r
}

// send begins what may be begun until nothing may and nothing is under way.
func (r *webhookRun) send(ctx context.Context) {
	workers := min(r.sink.parallel, len(r.ready))
	work := make(chan int)
	outcomes := make(chan outcome, workers)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := range work {
				begun, err := r.sink.post(ctx, &r.batch[i])
				outcomes <- outcome{i, begun, err}
			}
		})
	}
	for busy := 0; ; busy-- {
		for busy < workers && len(r.ready) > 0 && r.ready[0] < r.until && ctx.Err() == nil {
			work <- r.ready[0]
			r.ready = r.ready[1:]
			busy++
		}
		if busy == 0 {
			break
		}
		r.take(<-outcomes)
	}
	close(work)
	all.Wait()
}

// take notes what became of a message.
func (r *webhookRun) take(o outcome) {
	if o.begun {
		r.begun = max(r.begun, o.index+1)
	}
	if o.err != nil {
		r.failed[o.index] = o.err
		r.until = 0
		if _, refused := errors.AsType[*forward.Refused](o.err); refused && r.onlyRefusals() {
			r.until = slices.Min(r.failures())
		}
		return
	}
	r.done[o.index] = true
	if next := r.follower[o.index]; next != 0 {
		at, _ := slices.BinarySearch(r.ready, next)
		r.ready = slices.Insert(r.ready, at, next)
	}
	r.advance()
}

func (r *webhookRun) failures() []int {
	indexes := make([]int, 0, len(r.failed))
	for i := range r.failed {
		indexes = append(indexes, i)
	}
	slices.Sort(indexes)
	return indexes
}

func (r *webhookRun) onlyRefusals() bool {
	for _, err := range r.failed {
		if _, refused := errors.AsType[*forward.Refused](err); !refused {
			return false
		}
	}
	return true
}

// advance tells what is settled by now.
func (r *webhookRun) advance() {
	before := r.settled
	for r.settled < len(r.batch) && r.done[r.settled] {
		r.settled++
	}
	if r.settled > before {
		m := &r.batch[r.settled-1]
		r.sink.settled(m.Position)
	}
}

// result is what Send returns. It also leaves behind what the receiver has beyond the settled.
func (r *webhookRun) result(ctx context.Context) error {
	if r.settled > 0 {
		r.sink.beyond.forget(momentOf(&r.batch[r.settled-1]))
	}
	if r.settled == len(r.batch) {
		return nil
	}
	var has []moment
	for i := r.settled + 1; i < len(r.batch); i++ {
		if r.done[i] {
			has = append(has, momentOf(&r.batch[i]))
		}
	}
	r.sink.beyond.add(has)
	err := r.fault(ctx)
	if from := max(r.begun, r.settled); from < len(r.batch) {
		return &forward.Unsent{From: r.batch[from].Position, Err: err}
	}
	return err
}

// fault is why not everything is settled.
func (r *webhookRun) fault(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err, has := r.failed[r.settled]; has {
		return err
	}
	// It was not begun: a request of another device had no answer.
	for _, i := range r.failures() {
		if _, refused := errors.AsType[*forward.Refused](r.failed[i]); !refused {
			return r.failed[i]
		}
	}
	return errors.New("a message was neither sent nor refused") // cannot be
}
