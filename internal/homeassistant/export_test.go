package homeassistant

import "signalbox"

// Hear and Sweep are what Run does.
func (d *Discoverer) Hear(e *signalbox.Entry) { d.hear(e) }
func (d *Discoverer) Sweep()                  { d.sweep() }
