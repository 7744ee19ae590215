package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"signalbox"
)

// lookEvery is how often figures and place move while a sink has a batch in hand.
const lookEvery = 100 * time.Millisecond

// send hands a batch over. Messages that are to become dead letters are taken out.
func (s *session) send(ctx context.Context, b *batch) error {
	for _, sk := range b.skips {
		s.skip(&sk)
	}
	s.l.tellGap(&b.gap)
	s.lag = 0
	if n := len(b.msgs); n > 0 {
		s.lag = b.msgs[n-1].age()
	}
	for from := 0; from < len(b.msgs); {
		i, r := s.doomed(b, from)
		if err := s.give(ctx, b.msgs[from:i]); err != nil {
			refused, ok := s.resumes(err)
			if !ok {
				return err
			}
			if from, err = s.judge(b, refused); err != nil {
				return err
			}
			continue
		}
		if r == nil {
			break
		}
		if err := s.flush(ctx); err != nil {
			return err
		}
		if err := s.l.bury(ctx, &b.msgs[i], r); err != nil {
			return fmt.Errorf("a dead letter cannot be stored: %w", err)
		}
		s.handed, s.scanned = max(s.handed, r.Position), max(s.scanned, r.Position)
		s.f.mark = max(s.f.mark, r.Position)
		s.l.failed = 0
		s.fine() // it has answered
		from = i + 1
	}
	f := s.f
	s.scanned, f.seq = max(s.scanned, b.scanned), b.seq
	s.advance()
	if s.left() >= f.m.limits.window || s.bytes >= windowBytes {
		return s.flush(ctx)
	}
	return nil
}

// give hands messages to the sink, when it is on disk that they may have been sent.
func (s *session) give(ctx context.Context, msgs []Message) error {
	if len(msgs) == 0 {
		return nil
	}
	last := msgs[len(msgs)-1].Position
	if err := s.f.enter(ctx, last); err != nil {
		return fmt.Errorf("the forwarder's place cannot be stored: %w", err)
	}
	if last-s.handed > math.MaxUint32 {
		if err := s.flush(ctx); err != nil {
			return err
		}
		s.handed = msgs[0].Position - 1
	}
	given := 0 // of msgs; they are settled
	err := s.during(func() error { return s.sink.Send(ctx, msgs) }, func() { given = s.glance(msgs, given) })
	begun := msgs[given:max(given, begunOf(msgs, err))]
	s.count(begun)
	if r, ok := usable(err); ok {
		// What is at and behind the refused message is not on its way: it comes again.
		n, _ := slices.BinarySearchFunc(begun, r.Position, byPosition)
		begun = begun[:n]
	}
	s.push(begun)
	return s.refusal(err)
}

// during makes a call to the sink that may take long, and meanwhile has a look every so often.
func (s *session) during(call func() error, look func()) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	s.looks.Reset(lookEvery)
	defer s.looks.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-s.looks.C:
			look()
			s.looks.Reset(lookEvery)
		}
	}
}

// glance goes on with what is settled of a batch that the sink has in hand, of which the first given
// are dealt with. It gives how many are then.
func (s *session) glance(msgs []Message, given int) int {
	n, _ := slices.BinarySearchFunc(msgs[given:], signalbox.Position(s.settled.Load())+1, byPosition)
	s.count(msgs[given : given+n])
	s.push(msgs[given : given+n])
	given += n
	s.lag = msgs[min(given, len(msgs)-1)].age()
	s.advance()
	s.pace()
	s.f.holdBack(msgs[len(msgs)-1].Position)
	return given
}

// age is how long ago the hub got a message.
func (m *Message) age() time.Duration { return time.Since(time.UnixMicro(m.ReceivedMicros)) }

// begunOf says how many messages may have left when Send returned err.
func begunOf(msgs []Message, err error) int {
	u, ok := errors.AsType[*Unsent](err)
	if !ok {
		return len(msgs)
	}
	n, _ := slices.BinarySearchFunc(msgs, u.From, byPosition)
	return n
}

func byPosition(m Message, at signalbox.Position) int { return cmp.Compare(m.Position, at) }

// usable gives a refusal behind which the sink goes on.
func usable(err error) (*Refused, bool) {
	r, ok := errors.AsType[*Refused](err)
	return r, ok && r.Usable
}

// count counts messages that may have left.
func (s *session) count(msgs []Message) {
	if len(msgs) == 0 {
		return
	}
	s.connected()
	f := s.f
	f.mark = max(f.mark, msgs[len(msgs)-1].Position)
	again, size := 0, 0
	for i := range msgs {
		size += msgs[i].size()
		if msgs[i].Redelivered {
			again++
		}
	}
	f.stats.Sent.Add(int64(len(msgs)))
	f.stats.Redelivered.Add(int64(again))
	f.stats.Bytes.Add(int64(size))
}

// doomed finds the next message from an index on that is to become a dead letter, and why; without
// one it gives the end.
func (s *session) doomed(b *batch, from int) (int, *Refused) {
	for i := from; i < len(b.msgs); i++ {
		if r := s.l.doomed[b.msgs[i].Position]; r != nil {
			return i, r
		}
		if why := b.drafts[i].reason; why != "" {
			return i, &Refused{Position: b.msgs[i].Position, Reason: why, Permanent: true}
		}
	}
	return len(b.msgs), nil
}

// resumes says whether the batch in hand can go on behind an error: the sink can be used, and what
// may have left already can be given the mark without reading it again.
func (s *session) resumes(err error) (*Refused, bool) {
	r, ok := usable(err)
	if !ok || s.l.enc.format == FormatTemplate && s.l.enc.template.has(pieceRedelivered) && s.f.mark > r.Position {
		return nil, false
	}
	return r, true
}

// judge judges a refusal in the midst of a batch. Without an error the batch goes on at an index, with
// the message that has become a dead letter.
func (s *session) judge(b *batch, r *Refused) (from int, err error) {
	s.advance()
	if again, err := s.l.refused(r); err != nil {
		return 0, &judged{again, err}
	}
	from, _ = slices.BinarySearchFunc(b.msgs, r.Position, byPosition)
	for i := from; i < len(b.msgs) && b.msgs[i].Position <= s.f.mark; i++ {
		m := &b.msgs[i]
		if !m.Redelivered {
			m.Redelivered, m.Body = true, asRedelivered(s.l.spec.Format, m.Body)
		}
	}
	return from, nil
}
