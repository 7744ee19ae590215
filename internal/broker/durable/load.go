package durable

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"

	"signalbox"
	"signalbox/internal/store"
)

const (
	// packWindow is how far back the compression looks: a whole row of a queue.
	packWindow = 256 << 10
	// maxBody bounds a body after decompression, against broken files.
	maxBody = 1 << 28
)

// Open reads what an earlier life of the hub left: the tables, and the records of the log after
// their checkpoint. Call it after the log's Restore and before the log runs.
func Open(ctx context.Context, cfg Config, log Log, st *store.Store) (*Keeper, *Image, error) {
	if cfg.Pending <= 0 {
		cfg.Pending = 32 << 20
	}
	if cfg.Delay <= 0 {
		cfg.Delay = 3 * time.Second
	}
	if cfg.Behind <= 0 {
		cfg.Behind = 1 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true), zstd.WithWindowSize(packWindow))
	if err != nil {
		return nil, nil, fmt.Errorf("zstd: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBody))
	if err != nil {
		return nil, nil, fmt.Errorf("zstd: %w", err)
	}
	k := &Keeper{
		cfg: cfg, log: log, store: st, hold: log.Hold(), bounds: usualBounds(), enc: enc, dec: dec,
		sessions: map[SessionID]*session{}, retained: map[string]*retained{}, drops: map[SessionID]uint64{}, wake: make(chan struct{}, 1),
	}
	l := loading{k: k, found: map[SessionID]*Session{}, retained: map[string]*Message{}}
	if err := l.checkpoint(ctx); err != nil {
		return nil, nil, err
	}
	if err := l.tables(ctx); err != nil {
		return nil, nil, err
	}
	if err := l.replay(ctx); err != nil {
		return nil, nil, err
	}
	log.Ride(k.ride)
	return k, l.image(), nil
}

// loading is a start under way.
type loading struct {
	k        *Keeper
	found    map[SessionID]*Session // without what the keeper knows: see image
	retained map[string]*Message
}

// checkpoint reads the values of the table meta. A database without them never had a broker.
func (l *loading) checkpoint(ctx context.Context) error {
	k := l.k
	end := k.log.Committed()
	text, err := k.store.Meta(ctx, checkpointName)
	if err != nil {
		return err
	}
	if text == "" {
		k.reached(end)
		return k.store.Update(ctx, func(tx *store.Tx) error { return tx.SetMeta(ctx, checkpointName, formatPosition(end)) })
	}
	at, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return fmt.Errorf("the table meta says %q of %s; it must be a position of the log: %w", text, checkpointName, err)
	}
	if signalbox.Position(at) > end {
		return fmt.Errorf("the tables of the MQTT broker are as of position %d, but the intake log ends at %d: they do not belong together", at, end)
	}
	k.reached(signalbox.Position(at))
	if text, err = k.store.Meta(ctx, lastIDName); err != nil || text == "" {
		return err
	}
	if k.storedID, err = strconv.ParseUint(text, 10, 63); err != nil {
		return fmt.Errorf("the table meta says %q of %s; it must be a number: %w", text, lastIDName, err)
	}
	return nil
}

// tables reads the tables.
func (l *loading) tables(ctx context.Context) (err error) {
	k := l.k
	k.maxID = k.storedID
	err = k.store.BrokerSessions(ctx, func(b *store.BrokerSession) error {
		k.maxID = max(k.maxID, b.ID)
		if err := l.session(b); err != nil {
			k.stats.Broken.Add(1)
			k.cfg.Logger.Error("a stored MQTT session cannot be read and is passed over", "mqtt_session", b.ID, "err", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if k.nextRow, err = k.store.LastBrokerRow(ctx); err != nil {
		return err
	}
	err = k.store.BrokerQueueHeads(ctx, func(r store.BrokerRow) error {
		k.maxID = max(k.maxID, r.Session)
		s := k.sessions[SessionID(r.Session)]
		switch {
		case s == nil:
			k.drops[SessionID(r.Session)] = maxNumber
		case uint64(r.Last) < s.acked:
			k.drops[s.id] = s.acked
		default:
			w := s.work()
			w.stored = max(w.stored, uint64(r.Last))
			// Messages before acked are no part of it any more.
			all := float64(r.Last - r.First + 1)
			left := float64(r.Last - max(r.First, int64(s.acked)) + 1)
			l.found[s.id].Bytes += int64(math.Ceil(float64(r.Bytes) * left / all))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return k.store.BrokerRetained(ctx, func(body []byte) error {
		plain, err := k.unpack(body)
		var m *Message
		if err == nil {
			m, err = decodeMessage(plain)
		}
		if err != nil {
			k.stats.Broken.Add(1)
			k.cfg.Logger.Error("a stored retained message cannot be read and is passed over", "err", err)
			return nil
		}
		l.retained[m.Topic] = m
		return nil
	})
}

// session takes up a row of the table.
func (l *loading) session(b *store.BrokerSession) error {
	s := &session{id: SessionID(b.ID)}
	img := &Session{ID: s.id}
	if err := decodeState(s, b.State); err != nil {
		return err
	}
	if err := decodeHead(img, b.Head); err != nil {
		return err
	}
	var err error
	if img.Will, err = decodeWill(slices.Clone(b.Will)); err != nil {
		return err
	}
	if img.Subscriptions, err = decodeSubs(nil, b.Subs); err != nil {
		return err
	}
	l.k.sessions[s.id], l.found[s.id] = s, img
	return nil
}

// replay takes up the records of the log after the checkpoint.
func (l *loading) replay(ctx context.Context) error {
	k := l.k
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.log.Scan(ctx, k.Checkpoint()+1, func(e *signalbox.Entry) error {
		if e.Kind != signalbox.EntryBroker {
			return nil
		}
		err := k.apply(e.Position, e.Body)
		if err == nil {
			err = l.apply(e.Body)
		}
		if err != nil {
			return fmt.Errorf("the entry of the intake log at position %d cannot be read: %w", e.Position, err)
		}
		return nil
	})
	k.lastID.Store(k.maxID)
	return err
}

// apply brings the image up to date with a record that the keeper has taken up: with what it
// does not keep itself.
func (l *loading) apply(body []byte) error {
	d := reader{buf: body}
	d.byte()
	kind := d.byte()
	if kind == kindPublish || kind == kindRetract {
		return nil // see image
	}
	id := SessionID(d.uvarint(maxNumber))
	img := l.found[id]
	if img == nil && kind == kindBegin {
		img = &Session{ID: id}
		l.found[id] = img
	}
	if img == nil {
		return nil
	}
	var err error
	switch kind {
	case kindBegin:
		d.varint()
		d.uvarint(maxNumber)
		head, will := d.bytes(), d.bytes()
		if err = decodeHead(img, head); err == nil {
			img.Will, err = decodeWill(slices.Clone(will))
		}
		if err == nil {
			img.Subscriptions, err = decodeSubs(img.Subscriptions, d.rest())
		}
	case kindClose:
		d.varint()
		d.varint()
		d.uvarint(maxNumber)
		if d.byte()&closeKeepWill == 0 {
			img.Will = nil
		}
	case kindEnd:
		delete(l.found, id)
	case kindSubscribe:
		img.Subscriptions, err = decodeSubs(img.Subscriptions, d.rest())
	case kindUnsubscribe:
		img.Subscriptions, err = dropFilters(img.Subscriptions, d.rest())
	case kindWill:
		img.Will, err = decodeWill(slices.Clone(d.rest()))
	}
	return err
}

// image gives what was found.
func (l *loading) image() *Image {
	k := l.k
	img := &Image{At: k.log.Newest(), Sessions: make([]Session, 0, len(l.found))}
	for id, f := range l.found {
		s := k.sessions[id]
		f.Expiry, f.Connected = expiryOf(s.expiry), s.closedAt == 0
		if !f.Connected {
			f.ClosedAt = time.UnixMilli(s.closedAt).UTC()
		}
		f.Acked, f.Next, f.Sent = s.acked, s.next, s.sent
		if w := s.w; w != nil {
			f.Received, f.Done, f.Released = slices.Clone(w.received), slices.Clone(w.done), slices.Clone(w.released)
			slices.Sort(w.given)
			w.given = slices.Compact(w.given) // records that the table shows were read again
			f.Given = slices.Clone(w.given)
			for i := range w.items {
				f.Bytes += int64(len(w.items[i].m.body))
			}
			if w.atRest() {
				s.w = nil
			}
		}
		f.Messages = int64(f.Next-f.Acked) - int64(len(f.Done))
		if f.Messages == 0 {
			f.Bytes = 0
		}
		img.Sessions = append(img.Sessions, *f)
	}
	slices.SortFunc(img.Sessions, func(a, b Session) int { return int(a.ID) - int(b.ID) })
	for topic, r := range k.retained {
		if r.m == nil {
			delete(l.retained, topic)
		} else if m, err := decodeMessage(r.m.body); err == nil { // it was read before
			l.retained[topic] = m
		}
	}
	for _, m := range l.retained {
		img.Retained = append(img.Retained, m)
	}
	return img
}

// unpack gives what pack was given. Any goroutine may call it.
func (k *Keeper) unpack(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: an empty body", errBroken)
	}
	switch b[0] {
	case bodyPlain:
		return b[1:], nil
	case bodyZstd:
		return k.dec.DecodeAll(b[1:], nil)
	default:
		return nil, fmt.Errorf("%w: a body of kind %d", errBroken, b[0])
	}
}
