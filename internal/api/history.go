package api

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// History says what the farm was like over time: the answer to GET /v1/history. Times has the beginnings
// of those steps of which something is known, and all lists have one value for each of them. Of other
// steps nothing is known: no coordinator ran then, or it is too long ago.
type History struct {
	// Since and Until are whole steps since 1970.
	Since time.Time   `json:"since"`
	Until time.Time   `json:"until"`
	Step  Seconds     `json:"step"`
	Times []time.Time `json:"times"`
	// Covered is of how many seconds of each step something is known.
	Covered []Seconds       `json:"covered"`
	Systems []SystemHistory `json:"systems"`
	// Slots are those of all machines that were up, on average, and Used how many of them were used.
	Slots []float64 `json:"slots"`
	Used  []float64 `json:"used"`
	// Machines are empty if a summary was asked for.
	Machines []MachineHistory `json:"machines,omitempty"`
}

// SystemHistory is that of the builds for one system.
type SystemHistory struct {
	System string `json:"system"`
	// Queued, Waiting and Running are how many builds there were in that state, on average.
	Queued  []float64 `json:"queued"`
	Waiting []float64 `json:"waiting"` // for other builds
	Running []float64 `json:"running"` // on machines
	// Succeeded counts builds that machines made, Failed those that failed themselves, and Other all others that
	// ended: canceled, failed because of others, or with outputs that were there already.
	Succeeded []int64 `json:"succeeded"`
	Failed    []int64 `json:"failed"`
	Other     []int64 `json:"other"`
}

// MachineHistory is that of one machine.
type MachineHistory struct {
	Machine string    `json:"machine"`
	Slots   []float64 `json:"slots"` // on average; none while it was not up
	Used    []float64 `json:"used"`  // of its slots, on average
	Load    []float64 `json:"load"`  // for each of its cores; -1 if not known
}

// MinHistoryStep and MaxHistorySteps bound what GET /v1/history is asked for.
const (
	MinHistoryStep  = Seconds(300)
	MaxHistorySteps = 2000
)

// maxHistoryStep is longer than anything is kept.
const maxHistoryStep Seconds = 1e9

// HistoryQuery is the query of GET /v1/history.
type HistoryQuery struct {
	Since, Until time.Time
	Step         Seconds // in whole seconds
	// Machine limits the machines in the answer to one.
	Machine string
	// Summary leaves machines out.
	Summary bool
}

// Values writes the query.
func (q *HistoryQuery) Values() url.Values {
	v := url.Values{}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.Format(time.RFC3339Nano))
	}
	if q.Step > 0 {
		v.Set("step", strconv.FormatFloat(float64(q.Step), 'f', -1, 64))
	}
	if q.Machine != "" {
		v.Set("machine", q.Machine)
	}
	if q.Summary {
		v.Set("summary", "true")
	}
	return v
}

// ParseHistoryQuery reads what Values writes. What is not given is filled in: until now, since a day before
// that, in the shortest steps. The error says what is wrong.
func ParseHistoryQuery(v url.Values, now time.Time) (*HistoryQuery, error) {
	names := []string{"since", "until", "step", "machine", "summary"}
	for name := range v {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("%q is not known: there are %s", name, strings.Join(names, ", "))
		}
	}
	q := &HistoryQuery{Machine: v.Get("machine"), Step: MinHistoryStep}
	var err error
	if q.Until, err = parseTime(v, "until"); err != nil {
		return nil, err
	}
	if q.Until.IsZero() {
		q.Until = now
	}
	if q.Since, err = parseTime(v, "since"); err != nil {
		return nil, err
	}
	if q.Since.IsZero() {
		q.Since = q.Until.Add(-24 * time.Hour)
	}
	if s := v.Get("step"); s != "" {
		seconds, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("step %.40q: want seconds, as a whole number", s)
		}
		q.Step = Seconds(seconds)
	}
	if s := v.Get("summary"); s != "" {
		if q.Summary, err = strconv.ParseBool(s); err != nil {
			return nil, fmt.Errorf("summary %.40q: want true or false", s)
		}
	}
	return q, q.Check()
}

// Check says what is wrong with a query.
func (q *HistoryQuery) Check() error {
	switch {
	case q.Step < MinHistoryStep || q.Step > maxHistoryStep || q.Step != Seconds(int64(q.Step)):
		return fmt.Errorf("step %.0f: want whole seconds from %.0f to %.0f", q.Step, MinHistoryStep, maxHistoryStep)
	case !q.Since.Before(q.Until):
		return fmt.Errorf("since %s: want a time before until, which is %s", q.Since.Format(time.RFC3339), q.Until.Format(time.RFC3339))
	case q.Since.Year() < 1970 || q.Until.Year() > 9999:
		return fmt.Errorf("since %s, until %s: want years from 1970 to 9999", q.Since.Format(time.RFC3339), q.Until.Format(time.RFC3339))
	case q.Steps() > MaxHistorySteps:
		return fmt.Errorf("%d steps of %.0f seconds: at most %d are answered; a step of %d would do", q.Steps(), q.Step, MaxHistorySteps, q.enough())
	}
	return CheckText("machine", q.Machine, MaxName)
}

// Steps is of how many steps the answer is at most: those that there is a part of between Since and Until.
func (q *HistoryQuery) Steps() int64 {
	step := int64(q.Step)
	return (q.Until.Unix()+step-1)/step - q.Since.Unix()/step
}

// enough is the step, in minutes that are a multiple of five, with which there are few enough.
func (q *HistoryQuery) enough() int64 {
	seconds := (q.Until.Unix()-q.Since.Unix())/(MaxHistorySteps-2) + 1
	return (seconds + 299) / 300 * 300
}
