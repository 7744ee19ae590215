package forward

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

// Add makes a forwarder that was set through the API, and starts it. It begins at the log's end:
// what was before is not sent. by names who asked. Errors: KindInvalid for what is wrong with the
// spec; KindConflict (name_taken); KindLimited (too_many_forwarders); what Targets says of the
// target.
func (m *Manager) Add(ctx context.Context, spec Spec, by string) (Status, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	spec = spec.clone()
	if err := m.check(&spec); err != nil {
		return Status{}, err
	}
	m.mu.Lock()
	taken, count := m.all[spec.Name] != nil, len(m.all)
	m.mu.Unlock()
	switch {
	case taken:
		return Status{}, signalbox.Errorf(signalbox.KindConflict, "name_taken", "there is a forwarder %q already", spec.Name)
	case count >= m.cfg.Max:
		return Status{}, signalbox.Errorf(signalbox.KindLimited, "too_many_forwarders", "there are %d forwarders, and no more are allowed (forward.max); remove one first", count)
	}
	row, err := m.pack(&spec)
	if err != nil {
		return Status{}, err
	}
	f := newForwarder(m, spec, false)
	f.createdBy, f.createdAt = by, time.Now().UTC().Truncate(time.Millisecond)
	row.CreatedBy, row.CreatedAt = by, f.createdAt
	end := m.parts.Log.Committed()
	at := place{cursor: end, sent: end}
	f.mark, f.place.now = end, at
	err = m.parts.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.DeleteForwarder(ctx, f.name); err != nil { // a place of long ago
			return err
		}
		if _, err := tx.InsertForwarder(ctx, &row); err != nil {
			return err
		}
		tx.Then(func() {
			f.place.wrote(at, 0)
			m.mu.Lock()
			defer m.mu.Unlock()
			m.all[f.name] = f
			m.publish()
			if m.ctx != nil && !m.ended {
				m.start(f)
			}
		})
		return tx.PutForwarderPlaces(ctx, []store.ForwarderPlace{f.row(at)})
	})
	if err != nil {
		return Status{}, err
	}
	m.cfg.Logger.Info("a forwarder was made", "forwarder", f.name, "by", by)
	return f.status(), nil
}

// clone copies a spec, so that whoever gave it may change its lists.
func (s *Spec) clone() Spec {
	c := *s
	c.Devices, c.Types, c.Fields = slices.Clone(s.Devices), slices.Clone(s.Types), slices.Clone(s.Fields)
	c.Kinds, c.Allow = slices.Clone(s.Kinds), slices.Clone(s.Allow)
	return c
}

// check looks at a spec of the API, and at its target's address where it is given in digits.
func (m *Manager) check(spec *Spec) error {
	if spec.TLS != (TLS{}) {
		return signalbox.Errorf(signalbox.KindForbidden, "file_not_allowed", "tls names files of the hub's machine, which the configuration file alone may do")
	}
	if err := spec.Check(); err != nil {
		return err
	}
	target, err := m.parts.Targets(spec, false, m.cfg.Allow)
	if err != nil {
		return err
	}
	if err := target.Close(); err != nil {
		return fmt.Errorf("the target cannot be used: %w", err)
	}
	return nil
}

// sealed is what is stored of a forwarder under the key file: its secrets, and its URL if that may
// have one in it.
type sealed struct {
	Secrets
	To string `json:",omitempty"`
}

// pack makes a row of a spec; its secrets are sealed.
func (m *Manager) pack(spec *Spec) (row store.Forwarder, err error) {
	row = store.Forwarder{Name: spec.Name, Paused: spec.Paused}
	plain := *spec
	plain.Secrets = Secrets{}
	secret := sealed{Secrets: spec.Secrets}
	if plain.To = ShownURL(spec.To); plain.To != spec.To {
		secret.To = spec.To
	}
	if row.Spec, err = json.Marshal(&plain); err != nil {
		return row, fmt.Errorf("encode a forwarder: %w", err)
	}
	if secret == (sealed{}) {
		return row, nil
	}
	secrets, err := json.Marshal(&secret)
	if err != nil {
		return row, fmt.Errorf("encode a forwarder's secrets: %w", err)
	}
	row.Secrets, err = m.parts.Seal(sealPurpose, secrets)
	return row, err
}

// own gives a forwarder that the API may change.
func (m *Manager) own(name string) (*forwarder, error) {
	f, err := m.find(name)
	if err != nil {
		return nil, err
	}
	if f.fromFile {
		return nil, signalbox.Errorf(signalbox.KindForbidden, "forwarder_from_file",
			"the forwarder %q is set by the configuration file (forward.forwarders); change it there", name)
	}
	return f, nil
}

// Change changes a forwarder of the API and lets it go on with what is new at once, from where it
// is in the log. change gets a copy of the spec with its secrets; its name cannot change. Errors:
// KindNotFound; KindForbidden for one of the file; those of change and of Add.
func (m *Manager) Change(ctx context.Context, name string, change func(*Spec) error) (Status, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	f, err := m.own(name)
	if err != nil {
		return Status{}, err
	}
	if name != f.name {
		return Status{}, signalbox.Errorf(signalbox.KindConflict, "name_taken", "the forwarder %q cannot run, for the configuration file has one of that name; it can only be removed", name)
	}
	f.mu.Lock()
	spec := f.spec.clone()
	f.mu.Unlock()
	if err := change(&spec); err != nil {
		return Status{}, err
	}
	if spec.Name != f.name {
		return Status{}, bad("the name of the forwarder %q cannot be changed to %q; make another", f.name, spec.Name)
	}
	spec = spec.clone()
	if err := m.check(&spec); err != nil {
		return Status{}, err
	}
	row, err := m.pack(&spec)
	if err != nil {
		return Status{}, err
	}
	err = m.parts.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Then(func() { f.mend(spec) })
		return tx.UpdateForwarder(ctx, &row)
	})
	if err != nil {
		return Status{}, err
	}
	return f.status(), nil
}

// mend replaces the spec of a forwarder that may have been broken.
func (f *forwarder) mend(spec Spec) {
	f.mu.Lock()
	f.broken = ""
	f.mu.Unlock()
	f.set(spec)
}

// Pause stops a forwarder, or lets it go on. Meanwhile its queue goes on, within its limits.
// Errors as those of Change.
func (m *Manager) Pause(ctx context.Context, name string, paused bool) error {
	_, err := m.Change(ctx, name, func(spec *Spec) error {
		spec.Paused = paused
		return nil
	})
	return err
}

// Remove ends a forwarder of the API and drops its place in the log and its dead letters. Errors:
// KindNotFound; KindForbidden for one of the file.
func (m *Manager) Remove(ctx context.Context, name string) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	f, err := m.own(name)
	if err != nil {
		return err
	}
	if name != f.name { // a shadowed one: place and dead letters are those of the file's
		return m.parts.Store.Update(ctx, func(tx *store.Tx) error {
			tx.Then(func() { m.drop(name) })
			return tx.DropForwarder(ctx, f.name)
		})
	}
	// Nothing is written of it from here on, unless it stays.
	if err := m.lock(ctx); err != nil {
		return err
	}
	err = m.parts.Store.Update(ctx, func(tx *store.Tx) error {
		tx.Then(func() {
			f.place.mu.Lock()
			f.place.gone = true
			f.place.mu.Unlock()
			m.drop(name)
		})
		return tx.DeleteForwarder(ctx, name)
	})
	m.unlock()
	if err != nil {
		return err
	}
	m.mu.Lock()
	runs := f.stop != nil
	m.mu.Unlock()
	if runs {
		select {
		case <-f.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.cfg.Logger.Info("a forwarder was removed", "forwarder", name)
	return nil
}

// drop takes a forwarder off the list and ends it.
func (m *Manager) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.all[name]; f != nil && f.stop != nil {
		f.stop()
	}
	delete(m.all, name)
	m.publish()
}
