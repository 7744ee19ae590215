package registry_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/registry"
)

// TestPending follows a device that nobody added through quarantine, over restarts.
func TestPending(t *testing.T) {
	dir := t.TempDir()
	r, st := open(t, dir)
	add(t, r, "esp01")
	pending := func(name string) error {
		_, err := r.AddPending(t.Context(), registry.NewDevice{Name: name, Type: "sensor"}, 2)
		return err
	}
	for _, tt := range []struct{ name, code string }{
		{"new1", ""}, {"new1", "name_taken"}, {"esp01", "name_taken"}, {"a b", "invalid_name"}, {"new2", ""}, {"new3", "too_many_pending"},
	} {
		if err := pending(tt.name); err == nil && tt.code != "" || err != nil && signalbox.CodeOf(err) != tt.code {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.code)
		}
	}
	d := r.Find("new1")
	if _, allowed := d.Secret(); allowed || !d.Disabled() || !d.Pending() {
		t.Error("a pending device may log in")
	}
	if r.NotePending(r.Find("esp01"), "x") {
		t.Error("a device like any other was counted as pending")
	}
	before := time.Now()
	for range 3 {
		if !r.NotePending(d, "a/b") {
			t.Error("a pending device was not counted")
		}
	}
	if seen, ok := r.Seen(d.ID); !ok || seen.Messages != 3 || seen.Topic != "a/b" || seen.At.Before(before) {
		t.Errorf("seen was %+v", seen)
	}
	_, err := r.Add(t.Context(), registry.NewDevice{Name: "new1", Type: "box"})
	if signalbox.CodeOf(err) != "name_taken" {
		t.Errorf("adding it gave %v", err)
	}
	kind := "lamp"
	if err := r.Update(t.Context(), d, registry.Edit{Type: &kind}, nil); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	r, st = open(t, dir)
	d = r.Find("new1")
	if v := d.View(); !v.Pending || !v.Disabled || v.Type != "lamp" || r.Pending() != 2 {
		t.Errorf("after a restart it is %+v, and %d are pending", v, r.Pending())
	}
	if seen, ok := r.Seen(d.ID); !ok || seen != (registry.Seen{}) {
		t.Errorf("after a restart %+v was seen", seen)
	}
	if err := r.Approve(t.Context(), d, "not a type"); signalbox.CodeOf(err) != "invalid_name" {
		t.Errorf("a bad type gave %v", err)
	}
	if err := r.Approve(t.Context(), d, "box"); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(t.Context(), r.Find("new2"), nil); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	r, _ = open(t, dir)
	d = r.Find("new1")
	if v := d.View(); v.Pending || v.Disabled || v.Type != "box" || r.Pending() != 0 {
		t.Errorf("approved it is %+v, and %d are pending", v, r.Pending())
	}
	if _, allowed := d.Secret(); !allowed {
		t.Error("an approved device may not log in")
	}
}

// TestPendingTogether: the bound holds, and counting goes on, while devices come and go.
func TestPendingTogether(t *testing.T) {
	r, _ := open(t, t.TempDir())
	const limit = 4
	var work sync.WaitGroup
	for i := range 3 {
		work.Go(func() {
			for j := range 8 {
				d, err := r.AddPending(t.Context(), registry.NewDevice{Name: fmt.Sprint("n", i, "-", j), Type: "sensor"}, limit)
				if n := r.Pending(); n > limit {
					t.Errorf("%d are pending", n)
				}
				if signalbox.CodeOf(err) == "too_many_pending" {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				r.NotePending(d, "t")
				if j%2 == 0 {
					err = r.Approve(t.Context(), d, "")
				} else {
					err = r.Remove(t.Context(), d, nil)
				}
				if err != nil || r.NotePending(d, "t") {
					t.Errorf("it is still pending: %v", err)
				}
			}
		})
	}
	work.Wait()
	if n := r.Pending(); n != 0 {
		t.Errorf("%d are pending at the end", n)
	}
}
