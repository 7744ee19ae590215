package live

import (
	"encoding/binary"
	"slices"

	"signalbox"
	"signalbox/internal/wire"
)

// group is viewers that get the same bytes. The hub's lock guards it.
type group struct {
	key     string
	filter  Filter
	format  Format
	kinds   uint8        // a bit each
	choice  *wire.Choice // nil: whole objects
	thin    *thinner     // nil: everything
	viewers []*Viewer

	// what is to be handed out next
	spans  []span
	bytes  int
	events int
	last   signalbox.Position
}

// span is an encoded event, or several, in the memory of an encoder.
type span struct {
	of     *[]byte
	lo, hi int
}

// block is a piece of what a group's viewers get; they share it.
type block struct {
	data   []byte
	events int
	last   signalbox.Position // of the last event
	lag    *lag               // a statement in place of data; the viewer's own
}

// blockHead is what a block takes besides its data, about.
const blockHead = 64

func (g *group) add(s span, p signalbox.Position) {
	if n := len(g.spans); n > 0 && g.spans[n-1].of == s.of && g.spans[n-1].hi == s.lo {
		g.spans[n-1].hi = s.hi
	} else {
		g.spans = append(g.spans, s)
	}
	g.bytes += s.hi - s.lo
	g.events++
	g.last = p
}

// block makes a block of what there is.
func (g *group) block() *block {
	b := &block{data: make([]byte, 0, g.bytes), events: g.events, last: g.last}
	for _, s := range g.spans {
		b.data = append(b.data, (*s.of)[s.lo:s.hi]...)
	}
	g.spans, g.bytes, g.events = g.spans[:0], 0, 0
	return b
}

// index finds the groups that want an entry. The hub's lock guards it.
type index struct {
	groups   map[string]*group
	thinned  []*group
	kinds    [signalbox.EntryAlert + 1]listeners // of groups that chose no devices
	byDevice map[signalbox.DeviceID][]*group     // of those that did
}

// listeners are groups that want entries of one kind, of all devices or by type.
type listeners struct {
	all    []*group
	byType map[string][]*group
}

func newIndex() index {
	x := index{groups: make(map[string]*group), byDevice: make(map[signalbox.DeviceID][]*group)}
	for k := range x.kinds {
		x.kinds[k].byType = make(map[string][]*group)
	}
	return x
}

func (x *index) put(g *group) {
	x.groups[g.key] = g
	if g.thin != nil {
		x.thinned = append(x.thinned, g)
	}
	x.each(g, func(list []*group) []*group { return append(list, g) })
}

func (x *index) drop(g *group) {
	delete(x.groups, g.key)
	without := func(list []*group) []*group {
		i := slices.Index(list, g)
		return slices.Delete(list, i, i+1)
	}
	if g.thin != nil {
		x.thinned = without(x.thinned)
	}
	x.each(g, without)
}

// fieldsAChoice is how many fields count as one of Config.Choices.
const fieldsAChoice = 32

// weight is how many of Config.Choices g counts for: what it costs Run for each message besides
// what it shares with other groups.
func (g *group) weight() int {
	switch {
	case g.choice != nil:
		return (len(g.filter.Fields) + fieldsAChoice - 1) / fieldsAChoice
	case g.thin != nil:
		return 1
	default:
		return 0
	}
}

// onlyOf tells whether nobody but by watches with g.
func (g *group) onlyOf(by string) bool {
	return !slices.ContainsFunc(g.viewers, func(v *Viewer) bool { return v.opts.By != by })
}

// crowded tells whether g, which is to be by's, is too much for what hears one of its devices
// already: what all have chosen, or what nobody but by has; that may be half of it, so that one
// does not take everybody's choices away.
func (x *index) crowded(g *group, by string, most int) (all, own bool) {
	if g.weight() == 0 {
		return false, false
	}
	x.each(g, func(list []*group) []*group {
		sum, mine := g.weight(), g.weight()
		for _, other := range list {
			w := other.weight()
			sum += w
			if w > 0 && by != "" && other.onlyOf(by) {
				mine += w
			}
		}
		all = all || sum > most
		own = own || by != "" && mine > max(1, most/2)
		return list
	})
	return all, own
}

// each changes the lists that g belongs into.
func (x *index) each(g *group, change func([]*group) []*group) {
	for _, id := range g.filter.Devices {
		if list := change(x.byDevice[id]); len(list) > 0 {
			x.byDevice[id] = list
		} else {
			delete(x.byDevice, id)
		}
	}
	if g.filter.Devices != nil {
		return
	}
	for k := range x.kinds {
		l := &x.kinds[k]
		if g.kinds&(1<<k) == 0 {
			continue
		}
		if g.filter.Types == nil {
			l.all = change(l.all)
		}
		for _, t := range g.filter.Types {
			if list := change(l.byType[t]); len(list) > 0 {
				l.byType[t] = list
			} else {
				delete(l.byType, t)
			}
		}
	}
}

const (
	telemetryBit = 1 << signalbox.EntryTelemetry
	allKinds     = telemetryBit | 1<<signalbox.EntryPresence | 1<<signalbox.EntryCommand | 1<<signalbox.EntryAlert
	stateKinds   = telemetryBit | 1<<signalbox.EntryPresence
)

// kindBits gives the kinds of a filter.
func (f *Filter) kindBits() (bits uint8, err error) {
	if f.Kinds == nil {
		return allKinds, nil
	}
	for _, k := range f.Kinds {
		if k < signalbox.EntryTelemetry || k > signalbox.EntryAlert {
			return 0, signalbox.Errorf(signalbox.KindInvalid, "invalid_kind", "%d is no kind of event; allowed are telemetry, presence, command and alert", k)
		}
		bits |= 1 << k
	}
	return bits, nil
}

// tidy gives f in the one form that all have who choose the same.
func (f Filter) tidy() Filter {
	f.Devices, f.Types = ascending(f.Devices), ascending(f.Types)
	if len(f.Fields) == 0 {
		f.Fields = nil
	}
	return f
}

// ascending gives list sorted, each once; nil stays nil.
func ascending[T signalbox.DeviceID | string](list []T) []T {
	if list == nil {
		return nil
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

func contains[T signalbox.DeviceID | string](sorted []T, what T) bool {
	_, ok := slices.BinarySearch(sorted, what)
	return ok
}

// key is equal for those who get the same bytes; f is tidy.
func (f *Filter) key(format Format, kinds uint8) string {
	key := []byte{byte(format), kinds}
	key = binary.AppendUvarint(key, uint64(f.Every))
	texts := func(list []string) {
		key = binary.AppendUvarint(key, uint64(len(list)))
		for _, s := range list {
			key = append(binary.AppendUvarint(key, uint64(len(s))), s...)
		}
	}
	texts(f.Fields)
	key = append(key, given(f.Types))
	texts(f.Types)
	key = append(key, given(f.Devices))
	for _, d := range f.Devices {
		key = binary.AppendUvarint(key, uint64(d))
	}
	return string(key)
}

// given tells no choice from a choice of nothing.
func given[T any](list []T) byte {
	if list == nil {
		return 0
	}
	return 1
}
