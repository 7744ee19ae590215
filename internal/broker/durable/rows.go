package durable

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"

	"signalbox/internal/store"
)

// prepare encodes what is to be written; what is encoded already stays.
func (k *Keeper) prepare(ctx context.Context, b *batch) error {
	var ids []uint64
	have := map[uint64][]byte{}
	for _, o := range b.ops {
		if len(o.subs) > 0 && !o.fresh && !o.wrote {
			ids = append(ids, uint64(o.s.id))
		}
	}
	err := k.store.BrokerSubs(ctx, ids, func(id uint64, subs []byte) error { have[id] = subs; return nil })
	if err != nil {
		return err
	}
	for _, o := range b.ops {
		if len(o.subs) > 0 {
			k.subscribe(o, have[uint64(o.s.id)])
		}
		switch {
		case o.r != nil && o.body == nil:
			o.key = sha256.Sum256([]byte(o.r.topic))
			if o.m != nil {
				o.body = k.pack(o.m.body)
			}
		case len(o.items) > 0 && o.queue == nil:
			k.rowsOf(o)
		}
	}
	return nil
}

// subscribe makes the session's subscriptions of those that are stored and their changes.
func (k *Keeper) subscribe(o *op, before []byte) {
	subs, err := decodeSubs(nil, before)
	for _, c := range o.subs {
		if err != nil {
			break
		}
		if c.kind == kindSubscribe {
			subs, err = decodeSubs(subs, c.body)
		} else {
			subs, err = dropFilters(subs, c.body)
		}
	}
	o.subs = nil
	if err != nil {
		k.stats.Broken.Add(1)
		k.cfg.Logger.Error("stored subscriptions of an MQTT session cannot be read; they stay as they are", "mqtt_session", uint64(o.s.id), "err", err)
		return
	}
	o.row.Subs = appendSubs(nil, subs)
	o.wrote = !bytes.Equal(o.row.Subs, before)
}

// rowsOf makes rows of the messages of o: of each the length of what follows (uvarint), number
// less that of the message before (uvarint), options, message.
func (k *Keeper) rowsOf(o *op) {
	var buf, one []byte
	var row store.BrokerRow
	n, prev := 0, uint64(0)
	end := func() {
		row.Body = k.pack(buf)
		o.queue = append(o.queue, row)
		buf, n, prev = buf[:0], 0, 0
	}
	for i := range o.items {
		it := &o.items[i]
		if n == 0 {
			k.nextRow++
			row = store.BrokerRow{ID: k.nextRow, Session: uint64(o.s.id), First: int64(it.n)}
		}
		one = binary.AppendUvarint(one[:0], it.n-prev)
		one = appendOptions(one, &Target{QoS: it.qos, Retain: it.retain, IDs: it.ids})
		one = append(one, it.m.body...)
		buf = appendBytes(buf, one)
		row.Last, prev = int64(it.n), it.n
		row.Bytes += int64(len(it.m.body))
		if n++; n == k.bounds.rowMessages || len(buf) >= k.bounds.rowBytes {
			end()
		}
	}
	if n > 0 {
		end()
	}
}

// The first byte of a body says what the rest is.
const (
	bodyPlain = 1
	bodyZstd  = 2
)

// pack makes a body of the tables broker_queue and broker_retained.
func (k *Keeper) pack(b []byte) []byte {
	if len(b) >= packFrom {
		if packed := k.enc.EncodeAll(b, []byte{bodyZstd}); len(packed) < len(b) {
			return packed
		}
	}
	return append([]byte{bodyPlain}, b...)
}
