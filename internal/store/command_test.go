package store_test

import (
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// TestCommandOfRemovedDevice: a change that was on its way when its device was deleted
// does not bring the command back.
func TestCommandOfRemovedDevice(t *testing.T) {
	st := open(t, store.Config{Dir: t.TempDir()})
	c := &signalbox.Command{ID: "00000000000000000000000001", Name: "restart", State: signalbox.CommandQueued, CreatedAt: time.Now()}
	put := func(tx *store.Tx) error { return tx.PutCommand(t.Context(), c, true) }
	err := st.Update(t.Context(), func(tx *store.Tx) (err error) {
		c.To, err = tx.InsertDevice(t.Context(), store.Device{Name: "esp01", Type: "box"})
		return err
	})
	if err == nil {
		err = st.Update(t.Context(), put)
	}
	if err == nil {
		_, err = st.Command(t.Context(), c.ID)
	}
	if err == nil {
		err = st.Update(t.Context(), func(tx *store.Tx) error { return tx.DeleteDevice(t.Context(), c.To) })
	}
	if err == nil {
		err = st.Update(t.Context(), put)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Command(t.Context(), c.ID); signalbox.KindOf(err) != signalbox.KindNotFound {
		t.Errorf("the command of a removed device gives %v", err)
	}
}
