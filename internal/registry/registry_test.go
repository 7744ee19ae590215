package registry_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/session"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

func open(tb testing.TB, dir string) (*registry.Registry, *store.Store) {
	tb.Helper()
	st, err := store.Open(context.Background(), storetest.Config(tb, dir))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = st.Close() })
	log, err := history.Open(tb.Context(), history.Config{}, st)
	if err != nil {
		tb.Fatal(err)
	}
	r := registry.New(st, nil)
	if err := r.Load(tb.Context(), log); err != nil {
		tb.Fatal(err)
	}
	return r, st
}

func add(tb testing.TB, r *registry.Registry, name string) *registry.Device {
	tb.Helper()
	d, err := r.Add(tb.Context(), registry.NewDevice{Name: name, Type: "box"})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func names(r *registry.Registry) []string {
	out := []string{}
	for _, d := range r.All() {
		out = append(out, d.Name)
	}
	return out
}

func TestAddAllOutcomes(t *testing.T) {
	dir := t.TempDir()
	r, st := open(t, dir)
	have := add(t, r, "esp01")
	list := []registry.NewDevice{
		{Name: "esp02", Type: "box", Secret: store.Secret{Kind: 1, Sum: [32]byte{1, 2, 3}}},
		{Name: "esp01", Type: "box"},
		{Name: "a b", Type: "box"},
		{Name: "esp03", Type: ""},
		{Name: "esp02", Type: "station"},
		{Name: "Ящик-1", Type: "станция"},
	}
	out, err := r.AddAll(t.Context(), list, func(tx *store.Tx) error { return tx.SetMeta(t.Context(), "also", "yes") })
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, o := range out {
		if o.Err == nil {
			codes = append(codes, "added")
		} else {
			codes = append(codes, signalbox.CodeOf(o.Err))
		}
	}
	if want := []string{"added", "name_taken", "invalid_name", "invalid_name", "name_taken", "added"}; !slices.Equal(codes, want) {
		t.Errorf("outcomes %q, want %q", codes, want)
	}
	if out[1].Device != have || out[4].Device != out[0].Device || out[2].Device != nil {
		t.Error("an outcome has the wrong device")
	}
	if also, err := st.Meta(t.Context(), "also"); also != "yes" || err != nil {
		t.Errorf("what should be written with it is %q, %v", also, err)
	}
	want := []string{"esp01", "esp02", "Ящик-1"}
	if got := names(r); !slices.Equal(got, want) || r.Len() != 3 {
		t.Errorf("devices %q (%d), want %q", got, r.Len(), want)
	}
	again, _ := reopen(t, dir, st)
	if got := names(again); !slices.Equal(got, want) {
		t.Errorf("after a restart %q, want %q", got, want)
	}
	secret, allowed := again.Find("esp02").Secret()
	if secret != list[0].Secret || !allowed || again.Find("esp02").Type() != "box" || again.FindBytes([]byte("Ящик-1")).Type() != "станция" {
		t.Errorf("secret %v, allowed %v, types %s and %s", secret, allowed, again.Find("esp02").Type(), again.Find("Ящик-1").Type())
	}
}

func reopen(t *testing.T, dir string, st *store.Store) (*registry.Registry, *store.Store) {
	t.Helper()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, dir)
}

func TestAddAllIsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	r, st := open(t, dir)
	errNo := errors.New("no")
	canceled, cancel := context.WithCancel(t.Context())
	tests := []struct {
		name string
		ctx  context.Context
		also func(*store.Tx) error
		want error
	}{
		{"what goes with it fails", t.Context(), func(*store.Tx) error { return errNo }, errNo},
		{"canceled meanwhile", canceled, func(*store.Tx) error { cancel(); return nil }, context.Canceled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := r.AddAll(tt.ctx, []registry.NewDevice{{Name: "a", Type: "box"}, {Name: "b", Type: "box"}}, tt.also)
			if !errors.Is(err, tt.want) || out != nil {
				t.Errorf("outcomes %v, error %v", out, err)
			}
			if r.Find("a") != nil || r.Len() != 0 || len(r.All()) != 0 {
				t.Error("a device of a failed list is there")
			}
		})
	}
	again, _ := reopen(t, dir, st)
	if again.Len() != 0 {
		t.Error("a device of a failed list was stored")
	}
	add(t, again, "a")
}

func TestUpdateAndRemove(t *testing.T) {
	dir := t.TempDir()
	r, st := open(t, dir)
	d := add(t, r, "esp01")
	yes, kind, bad := true, "station", "no type"
	secret := store.Secret{Kind: 2, Sum: [32]byte{9}}
	if err := r.Update(t.Context(), d, registry.Edit{Type: &bad, Disabled: &yes}, nil); signalbox.KindOf(err) != signalbox.KindInvalid || d.Disabled() {
		t.Errorf("a bad type: %v, disabled %v", err, d.Disabled())
	}
	if err := r.Update(t.Context(), d, registry.Edit{Disabled: &yes}, nil); err != nil || d.Type() != "box" {
		t.Errorf("%v, type %s", err, d.Type())
	}
	if err := r.Update(t.Context(), d, registry.Edit{Type: &kind, Secret: &secret}, nil); err != nil {
		t.Error(err)
	}
	last := add(t, r, "esp02")
	if err := r.Remove(t.Context(), last, nil); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{r.Remove(t.Context(), last, nil), r.Update(t.Context(), last, registry.Edit{Disabled: &yes}, nil)} {
		if signalbox.CodeOf(err) != "device_not_found" {
			t.Errorf("a removed device: %v", err)
		}
	}
	if _, allowed := last.Secret(); allowed || r.Find("esp02") != nil || r.Get(last.ID) != nil || r.Len() != 1 {
		t.Error("a removed device is there")
	}
	again, st := reopen(t, dir, st)
	d = again.Find("esp01")
	if got, allowed := d.Secret(); allowed || got != secret || d.Type() != kind || !d.Disabled() || again.Len() != 1 {
		t.Errorf("after a restart: secret %v, allowed %v, type %s, %d devices", got, allowed, d.Type(), again.Len())
	}
	// The number of a removed device is never used again, not even the highest after a restart.
	if fresh := add(t, again, "esp02"); fresh.ID <= last.ID {
		t.Errorf("the new device has number %d, the removed one had %d", fresh.ID, last.ID)
	}
	_ = st
}

// TestCheckpointOfRemoved holds that a state which is being stored while its device is
// removed does not stay behind.
func TestCheckpointOfRemoved(t *testing.T) {
	r, st := open(t, t.TempDir())
	d := add(t, r, "esp01")
	if err := r.Remove(t.Context(), d, nil); err != nil {
		t.Fatal(err)
	}
	err := st.Update(t.Context(), func(tx *store.Tx) error {
		return tx.PutDeviceState(t.Context(), &store.DeviceState{Device: d.ID})
	})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := st.Reader().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM device_state`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d states, %v", n, err)
	}
}

// TestLookUpWhileChanging holds that what is there all the time is always found, and that
// lists are sorted and whole.
func TestLookUpWhileChanging(t *testing.T) {
	r, _ := open(t, t.TempDir())
	stay := add(t, r, "stay")
	var group sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 3 {
		group.Go(func() {
			for ctx.Err() == nil {
				if r.Find("stay") != stay || r.FindBytes([]byte("stay")) != stay || r.Get(stay.ID) != stay {
					t.Error("a device that is there was not found")
					return
				}
				all := r.All()
				if !slices.IsSortedFunc(all, func(a, b *registry.Device) int { return strings.Compare(a.Name, b.Name) }) || !slices.Contains(all, stay) {
					t.Error("the list is wrong")
					return
				}
			}
		})
	}
	for i := range 100 {
		d := add(t, r, fmt.Sprintf("d%d", 99-i))
		if !slices.Contains(r.All(), d) {
			t.Error("a device is not in the list after Add returned")
		}
		if i%2 == 0 {
			if err := r.Remove(t.Context(), d, nil); err != nil {
				t.Error(err)
			}
			if slices.Contains(r.All(), d) || r.Find(d.Name) != nil {
				t.Error("a device is found after Remove returned")
			}
		}
	}
	stop()
	group.Wait()
	if r.Len() != 51 || len(r.All()) != 51 {
		t.Errorf("%d devices, a list of %d", r.Len(), len(r.All()))
	}
}

func TestBodyGivesRoomBack(t *testing.T) {
	var s registry.State
	for _, n := range []int{120, 64 << 10, 120, 121, 0, 119} {
		body := []byte(strings.Repeat("x", n))
		s.SetBody(body)
		if string(s.Body) != string(body) {
			t.Fatalf("a body of %d bytes came back with %d", n, len(s.Body))
		}
		if cap(s.Body) > 2*n+128 {
			t.Errorf("a body of %d bytes holds %d", n, cap(s.Body))
		}
	}
}

func TestStatus(t *testing.T) {
	tests := []struct{ name, body, want string }{
		{"text", `{"status":"работает"}`, "работает"},
		{"absent", `{"a":1}`, "unknown"},
		{"the last counts", `{"status":"a","status":"b"}`, "b"},
		{"inner ones do not", `{"x":{"status":"a"}}`, "unknown"},
		{"escaped", `{"st\u0061tus":"\u0430"}`, "а"},
		{"number", `{"status":15.0}`, "15.0"},
		{"null", `{"status":null}`, "unknown"},
	}
	r, _ := open(t, t.TempDir())
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := add(t, r, fmt.Sprintf("esp%d", i))
			s := d.Lock()
			s.SetBody([]byte(tt.body))
			d.Unlock()
			if got := d.View().Status; got != "offline" {
				t.Errorf("status of an absent device is %q", got)
			}
			s = d.Lock()
			s.Session = 1
			d.Unlock()
			if got := d.StateView().Status; got != "online" {
				t.Errorf("status before the first telemetry is %q", got)
			}
			s = d.Lock()
			s.Reported = true
			d.Unlock()
			if got := d.View().Status; got != tt.want {
				t.Errorf("status %q, want %q", got, tt.want)
			}
		})
	}
}

// BenchmarkAddAll adds 100,000 devices in one transaction.
func BenchmarkAddAll(b *testing.B) {
	list := make([]registry.NewDevice, 100_000)
	for i := range list {
		list[i] = registry.NewDevice{Name: "device-" + strconv.Itoa(i), Type: "box"}
	}
	for b.Loop() {
		r, _ := open(b, b.TempDir())
		if _, err := r.AddAll(b.Context(), list, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemory makes many devices with sessions and a state of 120 bytes and reports the
// memory that each takes, and how a garbage collection bears it.
func BenchmarkMemory(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		var before, after runtime.MemStats
		r, st := open(b, b.TempDir())
		runtime.GC()
		runtime.ReadMemStats(&before)
		sessions := session.New()
		body := []byte(strings.Repeat("x", 120))
		for part := range 10 {
			list := make([]registry.NewDevice, n/10)
			for i := range list {
				list[i] = registry.NewDevice{Name: fmt.Sprintf("device-%07d", part*n/10+i), Type: "box"}
			}
			out, err := r.AddAll(b.Context(), list, nil)
			if err != nil {
				b.Fatal(err)
			}
			for _, o := range out {
				s := o.Device.Lock()
				s.SetBody(body)
				s.Session = sessions.NextID()
				sessions.Attach(&session.Session{ID: s.Session, Device: o.Device.ID})
				o.Device.Unlock()
			}
		}
		_ = r.All()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/device")
		began := time.Now()
		runtime.GC()
		b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "ms/GC")
		var last runtime.MemStats
		runtime.ReadMemStats(&last)
		b.ReportMetric(float64(last.PauseTotalNs-after.PauseTotalNs)/1e6, "ms-pause/GC")
		runtime.KeepAlive(r)
		runtime.KeepAlive(sessions)
		_ = st.Close()
	}
}
