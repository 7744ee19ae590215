package registry

import (
	"hash/maphash"

	"signalbox"
)

// names finds device numbers by name: a hash table of the numbers alone, since the names
// are in the devices. A device costs 5 to 11 bytes in it, a Go map of names some 60.
type names struct {
	seed  maphash.Seed
	slots []signalbox.DeviceID // a power of two of them; 0: free
	used  int
}

func newNames() names { return names{seed: maphash.MakeSeed(), slots: make([]signalbox.DeviceID, 16)} }

func (n *names) place(name string) int {
	return int(maphash.String(n.seed, name) & uint64(len(n.slots)-1))
} //nolint:gosec // below the length

// find gives the device of that name out of byID, nil without one. It does not allocate.
func (n *names) find(name []byte, byID []*Device) *Device {
	mask := len(n.slots) - 1
	for i := int(maphash.Bytes(n.seed, name) & uint64(mask)); n.slots[i] != 0; i = (i + 1) & mask { //nolint:gosec // below the length
		if d := byID[n.slots[i]]; d.Name == string(name) {
			return d
		}
	}
	return nil
}

// add enters d, which is in byID already and whose name is not in the table.
func (n *names) add(d *Device, byID []*Device) {
	if 4*(n.used+1) > 3*len(n.slots) {
		old := n.slots
		n.slots, n.used = make([]signalbox.DeviceID, 2*len(old)), 0
		for _, id := range old {
			if id != 0 {
				n.put(id, byID[id].Name)
			}
		}
	}
	n.put(d.ID, d.Name)
}

func (n *names) put(id signalbox.DeviceID, name string) {
	i := n.place(name)
	for n.slots[i] != 0 {
		i = (i + 1) & (len(n.slots) - 1)
	}
	n.slots[i] = id
	n.used++
}

// remove takes d out, while it still is in byID. Those behind it in its run are entered
// again, because a search ends at the first free slot.
func (n *names) remove(d *Device, byID []*Device) {
	mask := len(n.slots) - 1
	i := n.place(d.Name)
	for n.slots[i] != d.ID {
		if n.slots[i] == 0 {
			return
		}
		i = (i + 1) & mask
	}
	n.slots[i] = 0
	n.used--
	for i = (i + 1) & mask; n.slots[i] != 0; i = (i + 1) & mask {
		id := n.slots[i]
		n.slots[i] = 0
		n.used--
		n.put(id, byID[id].Name)
	}
}
