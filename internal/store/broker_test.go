package store_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// TestBroker: what the MQTT broker keeps comes back as it was.
func TestBroker(t *testing.T) { storetest.Each(t, testBroker) }

func testBroker(t *testing.T, db *storetest.Database) {
	t.Helper()
	st := db.Open(t).Store
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		for id := range uint64(40) {
			if err := tx.PutBrokerSession(ctx, &store.BrokerSession{ID: id + 1, Head: all, Subs: fmt.Append(nil, "subs ", id+1)}); err != nil {
				return err
			}
		}
		return tx.PutBrokerSession(ctx, &store.BrokerSession{ID: math.MaxInt64, State: all})
	})
	update(t, st, func(ctx context.Context, tx *store.Tx) error {
		b := &store.BrokerSession{ID: 1, Head: []byte("head"), Will: []byte("will"), State: []byte("state")}
		if err := tx.UpdateBrokerSession(ctx, b); err != nil {
			return err
		}
		b.ID, b.Will = 2, nil
		if err := tx.UpdateBrokerWill(ctx, b); err != nil {
			return err
		}
		b.ID, b.State = 3, nil
		if err := tx.UpdateBrokerState(ctx, b); err != nil {
			return err
		}
		if err := tx.UpdateBrokerSubs(ctx, 4, nil); err != nil {
			return err
		}
		return tx.DeleteBrokerSession(ctx, 5)
	})
	got := map[uint64]string{}
	err := st.BrokerSessions(t.Context(), func(b *store.BrokerSession) error {
		got[b.ID] = fmt.Sprintf("%x|%s|%s|%s", b.Head, b.Will, b.Subs, b.State)
		return nil
	})
	if err != nil || len(got) != 40 {
		t.Errorf("%d sessions, %v", len(got), err)
	}
	for id, want := range map[uint64]string{
		1: fmt.Sprintf("%x|will|subs 1|state", "head"), 2: fmt.Sprintf("%x||subs 2|state", all), 3: fmt.Sprintf("%x||subs 3|", all),
		4: fmt.Sprintf("%x|||", all), math.MaxInt64: fmt.Sprintf("|||%s", all),
	} {
		if got[id] != want {
			t.Errorf("session %d is %s, want %s", id, got[id], want)
		}
	}
	var asked, found []uint64
	for id := range uint64(45) {
		asked = append(asked, id)
	}
	err = st.BrokerSubs(t.Context(), asked, func(id uint64, subs []byte) error {
		found = append(found, id)
		if want := fmt.Sprint("subs ", id); string(subs) != want && (id != 4 || len(subs) != 0) {
			t.Errorf("session %d has %q", id, subs)
		}
		return nil
	})
	if err != nil || len(found) != 39 {
		t.Errorf("the subscriptions of %d sessions, %v", len(found), err)
	}
	testBrokerQueue(t, st, all)
}

func testBrokerQueue(t *testing.T, st *store.Store, all []byte) {
	t.Helper()
	if last, err := st.LastBrokerRow(t.Context()); err != nil || last != 0 {
		t.Errorf("the last row of none is %d, %v", last, err)
	}
	for range 2 { // a second time does no harm
		update(t, st, func(ctx context.Context, tx *store.Tx) error {
			for i := range 10 {
				row := store.BrokerRow{ID: uint64(20 - i), Session: uint64(1 + i%2), First: int64(10*i + 1), Last: int64(10*i + 10), Bytes: 7, Body: all}
				if err := tx.PutBrokerRow(ctx, &row); err != nil {
					return err
				}
			}
			if err := tx.PutBrokerRetained(ctx, [32]byte{0, 1}, []byte("one")); err != nil {
				return err
			}
			if err := tx.PutBrokerRetained(ctx, [32]byte{0xff}, all); err != nil {
				return err
			}
			return tx.DeleteBrokerRetained(ctx, [32]byte{0, 1})
		})
	}
	rows, err := st.BrokerRows(t.Context(), 1, 25, 3)
	if err != nil || len(rows) != 3 || rows[0].First != 21 || rows[2].Last != 70 || rows[0].ID != 18 || !slices.Equal(rows[1].Body, all) {
		t.Errorf("rows %+v, %v", rows, err)
	}
	if last, err := st.LastBrokerRow(t.Context()); err != nil || last != 20 {
		t.Errorf("the last row is %d, %v", last, err)
	}
	for _, want := range []int64{2, 1, 0} {
		update(t, st, func(ctx context.Context, tx *store.Tx) error {
			n, err := tx.PruneBrokerQueue(ctx, 1, 51, 2)
			if n != want {
				t.Errorf("%d rows deleted, want %d", n, want)
			}
			return err
		})
	}
	var heads []store.BrokerRow
	err = st.BrokerQueueHeads(t.Context(), func(r store.BrokerRow) error { heads = append(heads, r); return nil })
	if err != nil || len(heads) != 7 || heads[0].First != 61 || heads[1].Session != 1 || heads[2].Session != 2 || heads[6].Last != 100 {
		t.Errorf("rows %+v, %v", heads, err)
	}
	var bodies [][]byte
	err = st.BrokerRetained(t.Context(), func(body []byte) error { bodies = append(bodies, body); return nil })
	if err != nil || len(bodies) != 1 || !slices.Equal(bodies[0], all) {
		t.Errorf("retained %q, %v", bodies, err)
	}
}
