package durable

import (
	"bytes"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"signalbox"
)

// loose is a keeper without a log and a store: it takes up records.
func loose() *Keeper {
	return &Keeper{
		cfg:      Config{Logger: slog.New(slog.DiscardHandler), Delay: time.Hour, Pending: 1 << 20},
		sessions: map[SessionID]*session{}, retained: map[string]*retained{}, drops: map[SessionID]uint64{}, wake: make(chan struct{}, 1),
	}
}

func someSession() *Session {
	return &Session{
		ID: 3, Owner: "d17", ClientID: "board-1", Volatile: true, Expiry: time.Hour,
		Will:          &Will{Message: *someMessage(), Delay: 3 * time.Second},
		Subscriptions: []Subscription{{Filter: "a/+/b", QoS: 2, NoLocal: true, Handling: 2, ID: 99}, {Filter: "#", RetainAsPublished: true}},
	}
}

func someMessage() *Message {
	return &Message{
		Topic: "site/1/temperature", Payload: []byte("21.5"), Properties: []byte{1, 1}, QoS: 1, Retain: true,
		ExpiresAt: time.UnixMilli(1_700_000_000_123).UTC(), From: "d4",
	}
}

// FuzzRecord: a record that is none is refused, and what is taken up keeps the keeper in order.
func FuzzRecord(f *testing.F) {
	k := loose()
	begin := k.Begin(someSession())
	targets := []Target{{Session: 3, N: 1, QoS: 2, Retain: true, IDs: []uint32{7, 300}}, {Session: 3, N: 2, QoS: 1}, {Session: 9, N: 1, QoS: 1}}
	for _, r := range []*Record{
		begin, k.Publish(someMessage(), targets, true, 3, 77), k.Publish(&Message{Topic: "t"}, nil, true, 0, 0),
		k.Close(3, time.UnixMilli(5), -time.Second, 4, true), k.End(3), k.Subscribe(3, someSession().Subscriptions), k.Unsubscribe(3, []string{"#", "x"}),
		k.Acked(3, 2, 12, []uint64{3, 9}, []uint64{5}), k.Forget(3, 77), k.SetWill(3, nil), k.SetWill(3, someSession().Will),
	} {
		f.Add(r.Entry.Body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		k := loose()
		l := loading{k: k, found: map[SessionID]*Session{}, retained: map[string]*Message{}}
		both := func(p signalbox.Position, body []byte) error {
			err := k.apply(p, body)
			if err == nil {
				err = l.apply(body)
			}
			return err
		}
		if err := both(1, begin.Entry.Body); err != nil {
			t.Fatal(err)
		}
		if err := both(2, body); err != nil {
			return
		}
		if err := both(3, body); err != nil {
			t.Fatalf("a second time it is refused: %v", err)
		}
		for _, s := range k.sessions {
			if s.w != nil {
				k.end(s)
			}
		}
		for _, r := range k.retained {
			k.release(r.m)
			k.pending -= int64(len(r.topic)) + workCost
		}
		if left := k.pending - int64(len(k.queue)-len(k.retained))*workCost; left != 0 {
			t.Errorf("%d bytes are pending in the end", left)
		}
	})
}

// FuzzRows reads what tables may have.
func FuzzRows(f *testing.F) {
	k := loose()
	var err error
	if k.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<20)); err != nil {
		f.Fatal(err)
	}
	message := appendMessage(nil, someMessage())
	f.Add(append([]byte{bodyPlain}, appendBytes(nil, append([]byte{5, 1}, message...))...))
	f.Add(message)
	f.Add(appendSubs(nil, someSession().Subscriptions))
	f.Add(appendWill(nil, someSession().Will))
	f.Add(appendHead(nil, someSession()))
	f.Add(appendState(nil, &session{acked: 4, next: 9, sent: 8, expiry: -1, closedAt: 77, w: &work{done: []uint64{5}, released: []uint64{7}, received: []uint16{1, 65535}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := page{messages: 100, bytes: 1 << 20}
		if err := k.readRow(&p, b); err == nil && len(p.items) > 100 {
			t.Errorf("%d messages", len(p.items))
		}
		if m, err := decodeMessage(b); err == nil {
			again, err := decodeMessage(appendMessage(nil, m))
			if err != nil || !reflect.DeepEqual(m, again) {
				t.Errorf("%+v becomes %+v: %v", m, again, err)
			}
		}
		if subs, err := decodeSubs(nil, b); err == nil {
			again, err := decodeSubs(nil, appendSubs(nil, subs))
			if err != nil || !reflect.DeepEqual(subs, again) {
				t.Errorf("%+v become %+v: %v", subs, again, err)
			}
		}
		if w, err := decodeWill(b); err == nil && w != nil {
			again, err := decodeWill(appendWill(nil, w))
			if err != nil || w.Delay == again.Delay && !reflect.DeepEqual(w, again) {
				t.Errorf("%+v becomes %+v: %v", w, again, err)
			}
		}
		var s Session
		_ = decodeHead(&s, b)
		var state session
		if err := decodeState(&state, b); err == nil {
			text := appendState(nil, &state)
			var again session
			if err := decodeState(&again, text); err != nil || !bytes.Equal(appendState(nil, &again), text) {
				t.Errorf("the state %+v becomes %+v: %v", state, again, err)
			}
		}
	})
}
