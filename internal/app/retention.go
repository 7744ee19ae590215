package app

import (
	"fmt"
	"strings"
	"time"

	"signalbox"
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
	for _, k := range rules {
		fits := k.Scope == "" || k.Scope == keepType && k.Name == kind || k.Scope == keepDevice && k.Name == name
		if fits && k.rank() >= best.rank() {
			best = k
		}
	}
	return best
}

// rank says which of two rules counts: the one of the higher rank. That of no rule is 0.
func (k Keep) rank() int {
	switch {
	case k == Keep{}:
		return 0
	case k.Scope == keepDevice:
		return 3
	case k.Scope == keepType:
		return 2
	default:
		return 1
	}
}
