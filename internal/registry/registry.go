package registry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/store"
)

// Registry holds the devices. All methods may be called from any goroutine.
type Registry struct {
	st     *store.Store
	logger *slog.Logger

	changing sync.Mutex         // one change of the list at a time, see begin
	kinds    map[string]*string // the types in use, so that devices share one text; guarded by changing

	mu      sync.RWMutex
	names   names
	byID    []*Device
	sorted  []*Device // by name; nil when it has to be made again
	count   int
	changes int        // of the list, ever
	sorting sync.Mutex // held while sorted is made, outside of mu

	removed func(*Device) // by OnRemove

	dirtyMu    sync.Mutex
	dirty      []*Device
	checkpoint signalbox.Position
	hold       *history.Hold // what follows the checkpoint stays in the log

	quarantine quarantine
}

// New makes an empty registry over st.
func New(st *store.Store, logger *slog.Logger) *Registry {
	return &Registry{st: st, logger: logger, names: newNames(), kinds: make(map[string]*string)}
}

const checkpointKey = "checkpoint"

// Load reads devices and the states of the last checkpoint, then lets the log tell what
// came after it. It runs once, before anything connects.
func (r *Registry) Load(ctx context.Context, log *history.Log) error {
	err := r.st.Devices(ctx, func(row store.Device, s *store.DeviceState) error {
		d := r.newDevice(row)
		if s != nil {
			d.restore(s)
		}
		r.put(d)
		return nil
	})
	if err != nil {
		return err
	}
	at, err := r.st.Meta(ctx, checkpointKey)
	if err != nil {
		return err
	}
	if at != "" {
		p, err := strconv.ParseUint(at, 10, 64)
		if err != nil {
			return fmt.Errorf("the stored checkpoint %q is no number: %w", at, err)
		}
		r.checkpoint = signalbox.Position(p)
	}
	r.hold = log.Hold()
	r.hold.Release(r.checkpoint)
	if err := log.Restore(ctx, r.checkpoint, func(e *signalbox.Entry) error { return r.replay(e) }); err != nil {
		return err
	}
	return r.st.Shrink(ctx)
}

func (r *Registry) newDevice(row store.Device) *Device {
	return &Device{ID: row.ID, Name: row.Name, kind: r.kind(row.Type), secret: row.Secret, disabled: row.Disabled, pending: row.Pending, createdMs: row.CreatedAt.UnixMilli()}
}

// kind gives the one text of a type that all its devices share.
func (r *Registry) kind(text string) *string {
	if known, ok := r.kinds[text]; ok {
		return known
	}
	text = strings.Clone(text)
	r.kinds[text] = &text
	return &text
}

func (d *Device) restore(s *store.DeviceState) {
	d.state = State{
		SinceMicros: s.SinceMicros, Position: s.Position, ReceivedMicros: s.ReceivedMicros, TimeMicros: s.TimeMicros, Body: s.Body,
		Boot: s.Boot, Seq: s.Seq,
	}
	if s.Online {
		d.state.Session = 1 // some connection that ended with the process; see ingest's Begin
	}
	if a, err := netip.ParseAddr(s.Address); err == nil {
		d.state.Address = a
	}
}

// put enters d; the caller holds r.mu or is alone.
func (r *Registry) put(d *Device) {
	if need := int(d.ID) + 1; need > len(r.byID) {
		r.byID = append(r.byID, make([]*Device, need-len(r.byID))...)
	}
	r.byID[d.ID] = d
	r.names.add(d, r.byID)
	r.sorted = nil
	r.count++
	r.changes++
	if d.pending {
		r.quarantine.put(d.ID)
	}
}

// Find looks a device up by name, nil without one.
func (r *Registry) Find(name string) *Device {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.names.find([]byte(name), r.byID)
}

// FindBytes is Find for a name that is not a string yet; it does not allocate.
func (r *Registry) FindBytes(name []byte) *Device {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.names.find(name, r.byID)
}

// Get looks a device up by number, nil without one.
func (r *Registry) Get(id signalbox.DeviceID) *Device {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if int(id) >= len(r.byID) {
		return nil
	}
	return r.byID[id]
}

// Len is the number of devices.
func (r *Registry) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.count
}

// Each calls yield for each device there is at about now, by number. Unlike All it builds
// nothing.
func (r *Registry) Each(yield func(*Device)) {
	r.mu.RLock()
	byID := r.byID
	r.mu.RUnlock()
	for i := range byID {
		if d := r.Get(signalbox.DeviceID(i)); d != nil { //nolint:gosec // an index of devices
			yield(d)
		}
	}
}

// All gives the devices in order of their names. The slice is shared: do not change it.
func (r *Registry) All() []*Device {
	r.mu.RLock()
	sorted := r.sorted
	r.mu.RUnlock()
	if sorted != nil {
		return sorted
	}
	// Sorting a million takes a while, in which devices must be found.
	r.sorting.Lock()
	defer r.sorting.Unlock()
	r.mu.RLock()
	if sorted = r.sorted; sorted != nil { // another call was quicker
		r.mu.RUnlock()
		return sorted
	}
	changes := r.changes
	sorted = make([]*Device, 0, r.count)
	for _, d := range r.byID {
		if d != nil {
			sorted = append(sorted, d)
		}
	}
	r.mu.RUnlock()
	slices.SortFunc(sorted, func(a, b *Device) int { return cmp.Compare(a.Name, b.Name) })
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changes == changes {
		r.sorted = sorted
	}
	return sorted
}

// NewDevice is a device to be added.
type NewDevice struct {
	Name, Type string
	Secret     store.Secret
}

// Outcome is what became of one NewDevice of a list.
type Outcome struct {
	Device *Device // the new one, or the one that has the name already
	Err    error   // nil: added
}

// CheckNew tells whether name and type may be those of a device.
func CheckNew(name, kind string) error {
	if err := signalbox.CheckName("device name", name); err != nil {
		return err
	}
	return signalbox.CheckName("device type", kind)
}

// manyDevices is a list that leaves a page cache worth giving back.
const manyDevices = 1000

// Add adds a device; KindConflict (name_taken) when the name is taken.
func (r *Registry) Add(ctx context.Context, n NewDevice) (*Device, error) {
	out, err := r.AddAll(ctx, []NewDevice{n}, nil)
	if err != nil {
		return nil, err
	}
	return out[0].Device, out[0].Err
}

// AddAll adds many devices in one transaction, together with what also writes (may be
// nil). Entries that are invalid or whose name is taken are passed over and say so in
// their outcome; on any other error nothing is added.
func (r *Registry) AddAll(ctx context.Context, list []NewDevice, also func(tx *store.Tx) error) ([]Outcome, error) {
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	defer r.changing.Unlock()
	out := make([]Outcome, len(list))
	seen := make(map[string]*Device, len(list))
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i, n := range list { // before the transaction, which should be short
		out[i].Err = CheckNew(n.Name, n.Type)
	}
	err := r.st.Update(ctx, func(tx *store.Tx) error {
		for i, n := range list {
			if out[i].Err != nil {
				continue
			}
			have := r.Find(n.Name)
			if have == nil {
				have = seen[n.Name]
			}
			if have != nil {
				out[i] = Outcome{Device: have, Err: taken(have)}
				continue
			}
			row := store.Device{Name: n.Name, Type: n.Type, Secret: n.Secret, CreatedAt: now}
			var err error
			if row.ID, err = tx.InsertDevice(ctx, row); err != nil {
				return err
			}
			out[i].Device = r.newDevice(row)
			seen[n.Name] = out[i].Device
		}
		tx.Then(func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, o := range out {
				if o.Err == nil {
					r.put(o.Device)
				}
			}
		})
		if also != nil {
			return also(tx)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(list) >= manyDevices {
		if err := r.st.Shrink(ctx); err != nil {
			r.logger.Warn("memory could not be given back after an import", "err", err)
		}
	}
	return out, nil
}

// begin begins a change of the list, which ends with r.changing.Unlock. None begins before it
// is known what became of the one before, see store.Tx.Then.
func (r *Registry) begin(ctx context.Context) error {
	r.changing.Lock()
	err := r.st.Settle(ctx)
	if err != nil {
		r.changing.Unlock()
	}
	return err
}

func taken(have *Device) error {
	if have.Pending() {
		return signalbox.Errorf(signalbox.KindConflict, "name_taken", "a device named %q exists already: it was seen, and waits for approval", have.Name)
	}
	return signalbox.Errorf(signalbox.KindConflict, "name_taken", "a device named %q exists already", have.Name)
}

// Edit is a change of a device; nil fields stay as they are.
type Edit struct {
	Type     *string
	Secret   *store.Secret
	Disabled *bool
}

// Update changes a device; KindConflict (device_pending) for one that is to be enabled and
// waits for approval. Ending its connection, where the change asks for it, is done by
// then (may be nil): it is called when the change is stored, which may come out later than
// Update ends, and like what store.Tx.Then is given.
func (r *Registry) Update(ctx context.Context, d *Device, e Edit, then func()) error {
	if e.Type != nil {
		if err := signalbox.CheckName("device type", *e.Type); err != nil {
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
	case row.Pending && e.Disabled != nil && !*e.Disabled:
		return signalbox.Errorf(signalbox.KindConflict, "device_pending", "the device %q waits for approval: approve it instead", d.Name)
	}
	if e.Type != nil {
		row.Type = *e.Type
	}
	if e.Secret != nil {
		row.Secret = *e.Secret
	}
	if e.Disabled != nil {
		row.Disabled = *e.Disabled
	}
	edit := r.edit(d, row)
	return r.st.Update(ctx, func(tx *store.Tx) error {
		tx.Then(edit)
		tx.Then(then)
		return tx.UpdateDevice(ctx, row)
	})
}

// edit gives what makes d what row says. The caller holds r.changing.
func (r *Registry) edit(d *Device, row store.Device) func() {
	kind := r.kind(row.Type)
	return func() {
		d.mu.Lock()
		if d.secret != row.Secret {
			d.version++
		}
		approved := d.pending && !row.Pending
		d.kind, d.secret, d.disabled, d.pending = kind, row.Secret, row.Disabled, row.Pending
		d.mu.Unlock()
		if approved {
			r.quarantine.drop(d.ID)
		}
	}
}

// row is d as the store has it, as far as it can change, and whether it was removed.
func (d *Device) row() (row store.Device, removed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return store.Device{ID: d.ID, Type: *d.kind, Secret: d.secret, Disabled: d.disabled, Pending: d.pending}, d.removed
}

// OnRemove registers f to be called when a device was removed for good; f must not wait, nor
// change the list. Register before anything is removed.
func (r *Registry) OnRemove(f func(*Device)) { r.removed = f }

// Remove deletes a device. Ending its connection and its commands is done by then, as for
// Update.
func (r *Registry) Remove(ctx context.Context, d *Device, then func()) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	defer r.changing.Unlock()
	if r.Get(d.ID) != d {
		return NotFound(d.Name)
	}
	return r.st.Update(ctx, func(tx *store.Tx) error {
		tx.Then(func() { r.drop(d) })
		tx.Then(then)
		return tx.DeleteDevice(ctx, d.ID)
	})
}

// drop takes d off the list.
func (r *Registry) drop(d *Device) {
	r.mu.Lock()
	r.names.remove(d, r.byID)
	r.byID[d.ID] = nil
	r.sorted = nil
	r.count--
	r.changes++
	r.mu.Unlock()
	r.quarantine.drop(d.ID)
	d.mu.Lock()
	d.removed = true
	d.mu.Unlock()
	if r.removed != nil {
		r.removed(d)
	}
}

// NotFound is the error for a name that no device has.
func NotFound(name string) error {
	return signalbox.Errorf(signalbox.KindNotFound, "device_not_found", "there is no device named %q", name)
}
