package app

import (
	"errors"
	"net/netip"
	"time"

	"signalbox"
	"signalbox/internal/compat"
)

// CompatConfig is what is done for the two original systems besides their devices and pages.
type CompatConfig struct {
	Viewers ViewersConfig
}

// ViewersConfig are the original viewers of the M2M chain: off unless Device and Field are set.
type ViewersConfig struct {
	// Device and Field name what they see.
	Device, Field string
	// History is the port of history, host:port; empty for none.
	History string
	// Allow are the networks whose viewers are admitted.
	Allow []netip.Prefix
	// NullOrigin lets pages in that a browser opened as a file.
	NullOrigin bool
	// TimeZone is a name of the IANA database; Local is the machine's.
	TimeZone string
	// Max bounds the viewers at a time, on both ports together.
	Max int
	// Outbox bounds what waits to be sent to one viewer, in bytes.
	Outbox int
}

// outboxSlack is how much smaller than a connection's outbox that of a viewer has to be, so that a
// slow one is closed with words and not cut.
const outboxSlack = kib

func defaultCompat() CompatConfig {
	return CompatConfig{Viewers: ViewersConfig{NullOrigin: true, TimeZone: "Local", Max: compat.DefaultViewers, Outbox: compat.DefaultViewerOutbox}}
}

func compatSettings() []setting {
	v := func(c *Config) *ViewersConfig { return &c.Compat.Viewers }
	return []setting{
		text("compat.viewers.device", "a device's name, or empty for no viewers", func(c *Config) *string { return &v(c).Device }, func(s string) error {
			if s == "" {
				return nil
			}
			return signalbox.CheckName("device name", s)
		}).
			means("The device whose readings the viewers see. It need not exist yet."),
		text("compat.viewers.field", "a field's name, with dots for nesting, or empty for no viewers", func(c *Config) *string { return &v(c).Field }, func(s string) error {
			if s == "" {
				return nil
			}
			return signalbox.CheckField("field", s)
		}).
			means("The field of its telemetry that they see as temp: a number, or a string that is one."),
		listenOrOff("compat.viewers.history", func(c *Config) *string { return &v(c).History }).
			means("The address viewers of history connect to; in the original it was :8768. Live viewers connect to the ports of devices."),
		networks("compat.viewers.allow", func(c *Config) *[]netip.Prefix { return &v(c).Allow }).
			means("The networks whose viewers are admitted: they have no password. Empty: none are."),
		truth("compat.viewers.null_origin", func(c *Config) *bool { return &v(c).NullOrigin }).
			means("Lets pages of the Origin null connect as viewers: those that a browser opened as a file, as the original's were, and pages in a sandbox of any site. Other pages must be in devices.origins."),
		text("compat.viewers.time_zone", "Local for the machine's, or a name such as Asia/Shanghai or UTC", func(c *Config) *string { return &v(c).TimeZone }, func(s string) error {
			_, err := zoneOf(s)
			return err
		}).
			means("The time zone of the times that viewers see."),
		number("compat.viewers.max", func(c *Config) *int { return &v(c).Max }, 1, 100_000).
			means("How many viewers there may be at a time, on all ports together; one more is told so and closed with code 1013."),
		size("compat.viewers.outbox", func(c *Config) *int { return &v(c).Outbox }, 4*kib, 64*mib).
			means("How much may wait to be sent to one viewer; one that reads slower is closed with code 1013. Less than devices.outbox by 1KiB at least."),
	}
}

// zoneOf finds a time zone.
func zoneOf(name string) (*time.Location, error) {
	if name == "" {
		return nil, errors.New("it is empty")
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, errors.New("there is no such time zone")
	}
	return zone, nil
}

// checkCompat tells whether the settings of the original viewers fit together.
func (c *Config) checkCompat(faults *faults) {
	v := &c.Compat.Viewers
	if (v.Device == "") != (v.Field == "") {
		faults.add("compat.viewers.device and compat.viewers.field belong together; only one of them is set")
	}
	if v.Device == "" && v.History != "" {
		faults.add("compat.viewers.history = %q needs compat.viewers.device and compat.viewers.field", v.History)
	}
	if v.Device != "" && v.Outbox > c.Devices.Outbox-outboxSlack {
		faults.add("compat.viewers.outbox = %s must be less than devices.outbox = %s by 1KiB at least", formatSize(v.Outbox), formatSize(c.Devices.Outbox))
	}
}
