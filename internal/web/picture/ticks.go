package picture

import (
	"math"
	"strconv"
	"time"
)

// tick is a labelled place on an axis of time.
type tick struct {
	at    time.Time
	label string
}

// maxTicks is how many labels of times fit on a telephone.
const maxTicks = 5

const day = 24 * time.Hour

// timeSteps are those in which people count time.
var timeSteps = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	day, 2 * day, 7 * day, 14 * day, 28 * day, 91 * day, 364 * day,
}

// timeTicks returns at most maxTicks round times between two, with labels in the first's location.
func timeTicks(since, until time.Time) (ticks []tick) {
	whole := until.Sub(since)
	if whole <= 0 {
		return nil
	}
	step := timeSteps[0]
	for i := 1; whole/step >= maxTicks; i++ {
		if step *= 2; i < len(timeSteps) {
			step = timeSteps[i]
		}
	}
	year, month, date := since.Date()
	hour, format := 0, "15:04"
	switch {
	case step >= day:
		format = "Jan 2"
	case step < time.Minute:
		hour, format = since.Hour(), "15:04:05"
	case step <= time.Hour:
		hour = since.Hour()
	}
	for i := 0; ; i++ {
		at := time.Date(year, month, date, hour, 0, 0, 0, since.Location())
		if step >= day { // which is not always 24 hours
			at = at.AddDate(0, 0, i*int(step/day))
		} else {
			at = at.Add(time.Duration(i) * step)
		}
		if at.After(until) {
			return ticks
		}
		if !at.Before(since) {
			ticks = append(ticks, tick{at, at.Format(format)})
		}
	}
}

// valueTicks returns a few round numbers above 0, the last of them at least most; whole says that
// there is nothing between whole numbers.
func valueTicks(most float64, whole bool) (ticks []float64) {
	if !(most > 0) || most > 1e15 {
		most = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most))-1)
	for i := 0; most/step > 4 || whole && step < 1; i++ {
		step *= []float64{2, 2.5, 2}[i%3] // 1, 2, 5, 10
	}
	for v := step; ; v += step {
		ticks = append(ticks, v)
		if v >= most {
			return ticks
		}
	}
}

// short is a number in few characters.
func short(v float64) string {
	unit := ""
	for _, larger := range []string{"k", "M", "G", "T"} {
		if v < 1e4 {
			break
		}
		v, unit = v/1e3, larger
	}
	return strconv.FormatFloat(v, 'g', 4, 64) + unit
}
