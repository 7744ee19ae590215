package durable

import (
	"context"
	"fmt"
	"slices"

	"signalbox"
)

// rowsAtOnce is how many rows of a queue are read in one go.
const rowsAtOnce = 4

// Read gives messages that wait in a session's queue, from the number from on, in order: as
// many as messages and bytes (of topic, properties and payload) allow, but at least one, unless
// there is none. So nothing means that there is nothing from there on. Messages that are
// released are among them as long as they are not completed; a number that is missing between
// others is done, or its row is broken, which is logged. What is given may be shared: it must
// not be changed.
//
// It reads the table if it must, and gives ctx's error when that takes too long; a session that
// is not there gives KindNotFound.
func (k *Keeper) Read(ctx context.Context, id SessionID, from uint64, messages, bytes int) ([]Item, error) {
	p := page{id: id, from: from, messages: max(messages, 1), bytes: bytes}
	k.mu.Lock()
	s := k.sessions[id]
	if s == nil {
		k.mu.Unlock()
		return nil, signalbox.Errorf(signalbox.KindNotFound, "session_not_found", "there is no MQTT session %d", id)
	}
	var stored uint64
	var waiting []item
	p.from = max(p.from, s.acked)
	if w := s.w; w != nil {
		p.done = w.done
		stored = w.stored
		i, _ := slices.BinarySearchFunc(w.items, p.from, item.compare)
		waiting = slices.Clone(w.items[i:min(len(w.items), i+p.messages)])
	}
	k.mu.Unlock()
	if stored >= p.from {
		if err := k.readRows(ctx, &p, stored); err != nil {
			return nil, err
		}
	}
	for i := range waiting {
		it := &waiting[i]
		if p.full {
			break
		}
		err := p.add(it.n, it.m.body, func(t *Target) { t.QoS, t.Retain, t.IDs = it.qos, it.retain, it.ids })
		if err != nil {
			return nil, err // it was read before
		}
	}
	return p.items, nil
}

// page collects the messages of a Read.
type page struct {
	id       SessionID
	from     uint64
	done     []uint64 // never changed in place
	messages int
	bytes    int
	items    []Item
	full     bool
}

// add takes a message if it is wanted; there must have been none with a larger number.
func (p *page) add(n uint64, body []byte, options func(*Target)) error {
	if n < p.from || p.full {
		return nil
	}
	if _, done := slices.BinarySearch(p.done, n); done {
		return nil
	}
	if p.bytes -= len(body); len(p.items) > 0 && p.bytes < 0 {
		p.full = true
		return nil
	}
	m, err := decodeMessage(body)
	if err != nil {
		return err
	}
	it := Item{Target: Target{Session: p.id, N: n}, Message: m}
	options(&it.Target)
	p.items = append(p.items, it)
	p.from = n + 1
	p.full = len(p.items) >= p.messages
	return nil
}

// readRows reads messages up to the number last from the table.
func (k *Keeper) readRows(ctx context.Context, p *page, last uint64) error {
	for at := p.from; at <= last && !p.full; {
		rows, err := k.store.BrokerRows(ctx, uint64(p.id), int64(at), rowsAtOnce)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		if len(rows) == 0 {
			return nil
		}
		for i := range rows {
			at = uint64(rows[i].Last) + 1
			if p.full {
				break
			}
			k.stats.RowsRead.Add(1)
			if err := k.readRow(p, rows[i].Body); err != nil {
				k.stats.Broken.Add(1)
				k.cfg.Logger.Error("stored messages of an MQTT session cannot be read and are passed over", "mqtt_session", uint64(p.id), "first", rows[i].First, "last", rows[i].Last, "err", err)
			}
		}
	}
	return nil
}

// readRow reads the messages of a row.
func (k *Keeper) readRow(p *page, body []byte) error {
	plain, err := k.unpack(body)
	if err != nil {
		return err
	}
	d := reader{buf: plain}
	for n := uint64(0); len(d.buf) > 0 && !p.full; {
		one := reader{buf: d.bytes()}
		n += one.uvarint(maxNumber)
		var t Target
		one.options(&t)
		if d.failed || one.failed {
			return fmt.Errorf("%w: a row of a queue", errBroken)
		}
		err := p.add(n, one.rest(), func(to *Target) { to.QoS, to.Retain, to.IDs = t.QoS, t.Retain, t.IDs })
		if err != nil {
			return err
		}
	}
	return nil
}
