package app

// LiveConfig is the stream of what happens, for those who watch.
type LiveConfig struct {
	// Viewers bounds those who watch at a time, Resumes those of them who read history then.
	Viewers int
	Resumes int
	// PerUser bounds those of one user or token; 0: half of Viewers.
	PerUser int
	// Choices bounds the different choices of fields or every that hear one device.
	Choices int
	// Queue bounds what waits for one viewer, Intake what waits to be told to any, in bytes.
	Queue  int
	Intake int
	// Resume bounds how far back a cursor may lie, in entries of the log.
	Resume int
}

func defaultLive() LiveConfig {
	return LiveConfig{Viewers: 1000, Resumes: 4, Choices: 32, Queue: 4 * mib, Intake: 32 * mib, Resume: 5_000_000}
}

func liveSettings() []setting {
	return []setting{
		number("live.viewers", func(c *Config) *int { return &c.Live.Viewers }, 1, 100_000).
			means("How many may watch at the same time; one more is answered with 429. Viewers leave a tenth of the connections of the HTTP port (http.max_connections, or fewer when not so many files may be open) to others; the log says at the start when they are fewer for that."),
		number("live.viewers_per_user", func(c *Config) *int { return &c.Live.PerUser }, 0, 100_000).
			means("How many of them may be of one user or token; 0: half of live.viewers. One more is answered with 429. Whoever asks over the hub's own socket counts for live.viewers only."),
		number("live.choices", func(c *Config) *int { return &c.Live.Choices }, 1, 10_000).
			means("How many different choices of fields or every may hear the same device: each costs work for each message, for every 32 fields as much again. One user or token may have half of them. One more is answered with 429; those who choose the same count once."),
		size("live.queue", func(c *Config) *int { return &c.Live.Queue }, 64*kib, gib).
			means("How much may wait for one viewer. One that is slower is told how much it misses (lagged). Viewers of the same share what waits for them."),
		size("live.intake", func(c *Config) *int { return &c.Live.Intake }, mib, 4*gib).
			means("How much may wait to be given to viewers at all. What does not fit they get out of history, later; devices never wait."),
		number("live.resume", func(c *Config) *int { return &c.Live.Resume }, 1, 1_000_000_000).
			means("How many entries of the log behind its end a viewer that comes back may be. One that was away for longer is told so, and gets the present state."),
		number("live.resumes", func(c *Config) *int { return &c.Live.Resumes }, 1, 256).
			means("How many viewers that came back may read what they missed at the same time; others wait for their turn."),
	}
}
