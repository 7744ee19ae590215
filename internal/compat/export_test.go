package compat

// Lose does as if readings had come faster than they could be handed out.
func (v *Viewers) Lose(missed int64) { v.lost(missed) }

// ParseAsk and ReadingOf are for fuzzing.
var (
	ParseAsk  = parseAsk
	ReadingOf = readingOf
)
