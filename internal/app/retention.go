package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"signalbox"
	"signalbox/internal/history"
)

// Keep is one rule of how much history is kept.
type Keep struct {
	// Scope is "" for all devices, "type" or "device"; Name is that type's or device's.
	Scope, Name string
	// Age and Bytes bound what is kept; 0: no bound.
	Age   time.Duration
	Bytes int64
}

// The scopes of a Keep.
const (
	keepType   = "type"
	keepDevice = "device"
)

// String spells a rule as the configuration does.
func (k Keep) String() string {
	var parts []string
	if k.Scope != "" {
		parts = append(parts, k.Scope+":"+k.Name)
	}
	if k.Age > 0 {
		parts = append(parts, FormatDuration(k.Age))
	}
	if k.Bytes > 0 {
		parts = append(parts, formatSize(int(k.Bytes)))
	}
	return strings.Join(parts, " ")
}

// parseKeep reads a rule: a device or a type unless it is for all, and an age, a size or both.
func parseKeep(text string) (k Keep, err error) {
	for word := range strings.FieldsSeq(text) {
		scope, name, scoped := strings.Cut(word, ":")
		age, ageErr := ParseDuration(word)
		size, sizeErr := ParseSize(word)
		switch {
		case scoped && k.Scope == "" && (scope == keepType || scope == keepDevice):
			k.Scope, k.Name = scope, name
			if err := signalbox.CheckName(scope, name); err != nil {
				return k, err
			}
		case ageErr == nil && k.Age == 0 && age >= time.Minute:
			k.Age = age
		case sizeErr == nil && k.Bytes == 0 && size > 0:
			k.Bytes = int64(size)
		default:
			return k, fmt.Errorf("%q in %q is none of type:NAME, device:NAME, an age of a minute or more, a size", word, text)
		}
	}
	if k.Age == 0 && k.Bytes == 0 {
		return k, fmt.Errorf("%q has neither an age nor a size", text)
	}
	return k, nil
}

// keepFor chooses the rule of a device: its own, else its type's, else the one for all.
func keepFor(rules []Keep, name, kind string) (best Keep) {
	rank := map[string]int{"": 1, keepType: 2, keepDevice: 3}
	for _, k := range rules {
		fits := k.Scope == "" || k.Scope == keepType && k.Name == kind || k.Scope == keepDevice && k.Name == name
		if fits && (best == (Keep{}) || rank[k.Scope] >= rank[best.Scope]) {
			best = k
		}
	}
	return best
}

// retention is what the latest run did.
type retention struct {
	runs, messages, bytes, reclaimed atomic.Int64
}

const (
	// retainEvery is how often history is looked through for what is too old or too much, and
	// retainFirst when after the start.
	retainEvery = 10 * time.Minute
	retainFirst = time.Minute
)

// runRetention drops history by the rules, and that of removed devices, from time to time.
func (a *App) runRetention(ctx context.Context) error {
	timer := time.NewTimer(retainFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := a.retain(ctx, time.Now()); err != nil && ctx.Err() == nil {
			a.logger.Warn("old history could not be dropped; it is tried again", "err", err)
		}
		timer.Reset(retainEvery)
	}
}

// retain does it once.
func (a *App) retain(ctx context.Context, now time.Time) error {
	began := time.Now()
	sum, err := a.log.DropBefore(ctx, func(id signalbox.DeviceID) time.Time { return a.keptSince(id, now) })
	for _, d := range a.devices.All() {
		if err != nil {
			break
		}
		if k := keepFor(a.cfg.History.Keep, d.Name, d.Type()); k.Bytes > 0 {
			var part history.Dropped
			part, err = a.log.DropOver(ctx, d.ID, k.Bytes)
			sum = history.Dropped{Chunks: sum.Chunks + part.Chunks, Messages: sum.Messages + part.Messages, Bytes: sum.Bytes + part.Bytes}
		}
	}
	a.kept.runs.Add(1)
	a.kept.messages.Add(sum.Messages)
	a.kept.bytes.Add(sum.Bytes)
	if sum.Chunks == 0 {
		return err
	}
	freed, reclaimErr := a.store.Reclaim(ctx)
	a.kept.reclaimed.Add(freed)
	a.logger.Info("history was dropped as history.keep says", "messages", sum.Messages, "chunks", sum.Chunks, "bytes", sum.Bytes,
		"given_back", freed, "took", time.Since(began).Round(time.Millisecond))
	return errors.Join(err, reclaimErr)
}

// keptSince is the time before which a device's history is dropped; zero: none is. Of a
// device that was removed all is.
func (a *App) keptSince(id signalbox.DeviceID, now time.Time) time.Time {
	var k Keep
	if id == 0 { // presence, commands and alerts of all devices
		k = keepFor(a.cfg.History.Keep, "", "")
	} else {
		d := a.devices.Get(id)
		if d == nil {
			return now
		}
		k = keepFor(a.cfg.History.Keep, d.Name, d.Type())
	}
	if k.Age == 0 {
		return time.Time{}
	}
	return now.Add(-k.Age)
}
