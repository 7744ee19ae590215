package cli

import (
	"testing"

	"signalbox/internal/store"
)

// TestPendingDevices lists and approves devices that were seen without being known.
func TestPendingDevices(t *testing.T) {
	s := newStation(t)
	s.run("device", "add", "esp01").want(t, 0)
	st, err := store.Open(t.Context(), store.Config{Dir: s.dir})
	if err != nil {
		t.Fatal(err)
	}
	err = st.Update(t.Context(), func(tx *store.Tx) error {
		for _, name := range []string{"new1", "new2"} {
			if _, err := tx.InsertDevice(t.Context(), store.Device{Name: name, Type: "sensor", Disabled: true, Pending: true}); err != nil {
				return err
			}
		}
		return nil
	})
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.run("device", "list").want(t, 0, "esp01", "new1", "pending")
	list := s.run("device", "list", "--pending", "--json").want(t, 0)
	if got := decode[[]struct{ Name string }](t, list); len(got) != 2 || got[0].Name != "new1" {
		t.Errorf("pending are %v", got)
	}
	s.run("device", "list", "--pending").want(t, 0, "TOPIC", "new2")
	s.run("device", "show", "new1").want(t, 0, "Pending", "waits for approval")
	s.run("device", "enable", "new1").want(t, 1, "approve it")
	s.run("device", "approve", "new1", "--type", "lamp").want(t, 0, "new1")
	s.run("device", "approve", "new1").want(t, 1, "does not wait for approval")
	s.run("device", "show", "new1").want(t, 0, "lamp")
	s.run("device", "rm", "new2").want(t, 0)
	s.run("device", "approve", "new2").want(t, 3, "no device named")
}
