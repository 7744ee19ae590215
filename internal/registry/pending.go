package registry

import (
	"context"
	"strings"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// Seen is what is known of a pending device since the start of the hub.
type Seen struct {
	// Messages counts those that were dropped.
	Messages int64
	// At and Topic are the latest one's; zero before the first.
	At    time.Time
	Topic string
}

// quarantine holds what was seen of each pending device. Its lock is taken last.
type quarantine struct {
	mu   sync.Mutex
	seen map[signalbox.DeviceID]*Seen
}

func (q *quarantine) put(id signalbox.DeviceID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.seen == nil {
		q.seen = make(map[signalbox.DeviceID]*Seen)
	}
	q.seen[id] = new(Seen)
}

func (q *quarantine) drop(id signalbox.DeviceID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.seen, id)
}

// AddPending adds a device that nobody asked for: it is known and disabled until Approve, and
// what it says is dropped. KindConflict (name_taken) when the name is taken, KindLimited
// (too_many_pending) when limit devices are pending already.
func (r *Registry) AddPending(ctx context.Context, n NewDevice, limit int) (*Device, error) {
	if err := CheckNew(n.Name, n.Type); err != nil {
		return nil, err
	}
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	defer r.changing.Unlock()
	if d := r.Find(n.Name); d != nil {
		return d, taken(d)
	}
	if have := r.Pending(); have >= limit {
		return nil, signalbox.Errorf(signalbox.KindLimited, "too_many_pending",
			"%d devices wait for approval; at most %d are allowed: approve or remove some", have, limit)
	}
	row := store.Device{Name: n.Name, Type: n.Type, Secret: n.Secret, Disabled: true, Pending: true, CreatedAt: time.Now().UTC().Truncate(time.Millisecond)}
	var d *Device
	err := r.st.Update(ctx, func(tx *store.Tx) error {
		var err error
		if row.ID, err = tx.InsertDevice(ctx, row); err != nil {
			return err
		}
		d = r.newDevice(row)
		tx.Then(func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.put(d)
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Approve makes a pending device one like any other, of the type kind unless that is empty.
// KindConflict (not_pending) when it is not pending.
func (r *Registry) Approve(ctx context.Context, d *Device, kind string) error {
	if kind != "" {
		if err := signalbox.CheckName("device type", kind); err != nil {
			return err
		}
	}
	if err := r.begin(ctx); err != nil {
		return err
	}
	defer r.changing.Unlock()
	row, removed := d.row()
	switch {
	case removed:
		return NotFound(d.Name)
	case !row.Pending:
		return signalbox.Errorf(signalbox.KindConflict, "not_pending", "the device %q does not wait for approval", d.Name)
	}
	row.Disabled, row.Pending = false, false
	if kind != "" {
		row.Type = kind
	}
	edit := r.edit(d, row)
	return r.st.Update(ctx, func(tx *store.Tx) error {
		tx.Then(edit)
		return tx.UpdateDevice(ctx, row)
	})
}

// Pending is the number of devices that wait for approval.
func (r *Registry) Pending() int {
	r.quarantine.mu.Lock()
	defer r.quarantine.mu.Unlock()
	return len(r.quarantine.seen)
}

// NotePending notes a dropped message of a pending device, and reports whether the device is
// one. topic is copied when it is another than that of the message before.
func (r *Registry) NotePending(d *Device, topic string) bool {
	r.quarantine.mu.Lock()
	defer r.quarantine.mu.Unlock()
	s := r.quarantine.seen[d.ID]
	if s == nil {
		return false
	}
	s.Messages++
	s.At = time.Now()
	if s.Topic != topic {
		s.Topic = strings.Clone(topic) // it may be lent
	}
	return true
}

// Seen gives what was seen of a pending device; false for any other.
func (r *Registry) Seen(id signalbox.DeviceID) (Seen, bool) {
	r.quarantine.mu.Lock()
	defer r.quarantine.mu.Unlock()
	if s := r.quarantine.seen[id]; s != nil {
		return *s, true
	}
	return Seen{}, false
}
