package display

import (
	"fmt"
	"strconv"
	"time"

	"lighter/internal/api"
	"lighter/internal/human"
)

// shortly is how far ahead an end is told as a length of time; after that as a time of day.
const shortly = time.Hour

// Expected says when something will probably happen: "in 3 to 5 minutes", "at 14:35 (between 14:20 and
// 15:10)"; empty for nil.
func Expected(e *api.Expected, now time.Time) string {
	if e == nil {
		return ""
	}
	if low, high, unit, near := soon(e, now); near {
		switch low {
		case 0:
			return "within " + human.Count(high, unit)
		case high:
			return "in about " + human.Count(high, unit)
		}
		return fmt.Sprintf("in %d to %s", low, human.Count(high, unit))
	}
	at := "at " + clock(e.Middle, now, e)
	if day := dayOf(e.Middle, now); day != "" {
		at = "on " + day + " at " + timeOfDay(e.Middle, e)
	}
	return fmt.Sprintf("%s (between %s and %s)", at, clock(e.Low, now, e), clock(e.High, now, e))
}

// ExpectedWithWhy is Expected, with what makes it unsure.
func ExpectedWithWhy(e *api.Expected, now time.Time) string {
	text := Expected(e, now)
	if text != "" && e.Unsure != "" {
		text += "; unsure: " + e.Unsure
	}
	return text
}

// ExpectedColumn says it for a column: "3-5m", "14:20-15:10".
func ExpectedColumn(e *api.Expected, now time.Time) string {
	if e == nil {
		return "-"
	}
	if low, high, unit, near := soon(e, now); near {
		switch low {
		case 0:
			return fmt.Sprintf("<%d%c", high, unit[0])
		case high:
			return fmt.Sprintf("~%d%c", high, unit[0])
		}
		return fmt.Sprintf("%d-%d%c", low, high, unit[0])
	}
	first, last := clock(e.Low, now, e), clock(e.High, now, e)
	if day := dayOf(e.High, now); day != "" && day == dayOf(e.Low, now) {
		last = timeOfDay(e.High, e)
	}
	return first + "-" + last
}

// soon returns the bounds in whole minutes, or seconds, if they are near.
func soon(e *api.Expected, now time.Time) (low, high int, unit string, near bool) {
	from, to := max(0, e.Low.Sub(now)), e.High.Sub(now)
	if to >= shortly {
		return 0, 0, "", false
	}
	length := time.Minute
	unit = "minute"
	if to <= 90*time.Second {
		length, unit = time.Second, "second"
	}
	high = max(1, int((to+length-1)/length))
	return min(high, int((from+length/2)/length)), high, unit, true
}

// clock is a time of day, with the day if that is not today.
func clock(t, now time.Time, e *api.Expected) string {
	if day := dayOf(t, now); day != "" {
		return day + " " + timeOfDay(t, e)
	}
	return timeOfDay(t, e)
}

// coarse is how wide an interval is of which nobody wants to know the minutes.
const coarse = 30 * time.Minute

func timeOfDay(t time.Time, e *api.Expected) string {
	if e.High.Sub(e.Low) >= coarse {
		t = t.Truncate(5 * time.Minute)
	}
	return t.Local().Format("15:04")
}

// dayOf names a day; empty for today.
func dayOf(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	switch ahead := t.Sub(now); {
	case t.YearDay() == now.YearDay() && t.Year() == now.Year():
		return ""
	case ahead < 6*24*time.Hour:
		return t.Format("Mon")
	case ahead < 300*24*time.Hour:
		return strconv.Itoa(t.Day()) + " " + t.Format("Jan")
	}
	return t.Format(time.DateOnly)
}

// Outlook says when the last of several builds will be done, and of how many it can't be told; empty if nothing
// is to be said.
func Outlook(o *api.Outlook, now time.Time) string {
	switch {
	case o == nil:
		return ""
	case o.ExpectedEnd == nil && o.Unknown != "":
		return "when builds will be done can't be told: " + o.Unknown
	case o.ExpectedEnd == nil && o.Untold > 0:
		return "when " + human.Count(o.Untold, "build") + " will be done can't be told"
	case o.ExpectedEnd == nil:
		return ""
	}
	text := human.Count(o.Builds, "build") + " to be done " + ExpectedWithWhy(o.ExpectedEnd, now)
	if o.Untold > 0 {
		text += "; of " + human.Number(o.Untold) + " more it can't be told"
	}
	return text
}
