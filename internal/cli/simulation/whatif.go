package simulation

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/internal/cli/command"
	"lighter/internal/human"
	"lighter/internal/quantity"
	"lighter/scheduler/simulate"
)

const (
	maxNamed    = 20     // machines that an error names
	maxAdded    = 1000   // machines that one "add" adds
	maxMachines = 10_000 // of a fleet
	maxSlots    = 10_000
	maxSpeed    = 1000.0
)

// whatIfForms are the sentences of a what-if, for help and errors.
const whatIfForms = `add N like NAME, remove NAME, NAME speed X, NAME slots N, NAME bandwidth RATE, NAME memory SIZE, NAME away FROM..TO`

// whatIf returns the fleet that a text makes of another, which stays as it is. A text is sentences
// with commas between them. An error names the word that is wrong, and says what would be right.
func whatIf(fleet []simulate.Machine, text string) ([]simulate.Machine, error) {
	fleet = slices.Clone(fleet)
	for sentence := range strings.SplitSeq(text, ",") {
		var err error
		if fleet, err = changed(fleet, strings.Fields(sentence)); err != nil {
			return nil, err
		}
	}
	if len(fleet) == 0 {
		return nil, fmt.Errorf("no machine is left")
	}
	return fleet, nil
}

// changed carries out one sentence.
func changed(fleet []simulate.Machine, words []string) ([]simulate.Machine, error) {
	if len(words) == 0 {
		return nil, fmt.Errorf("it says nothing; want one of: %s", whatIfForms)
	}
	switch words[0] {
	case "add":
		return added(fleet, words[1:])
	case "remove":
		if len(words) != 2 {
			return nil, fmt.Errorf("remove wants the name of one machine: remove NAME")
		}
		names, err := named(fleet, words[1])
		if err != nil {
			return nil, err
		}
		return slices.DeleteFunc(fleet, func(m simulate.Machine) bool { return slices.Contains(names, m.Name) }), nil
	}
	names, err := named(fleet, words[0])
	if err != nil && len(words) == 4 && words[2] == "like" {
		return nil, fmt.Errorf("%.100q: did you mean add?", words[0])
	}
	if err != nil {
		return nil, fmt.Errorf("%w; besides, there are add and remove", err)
	}
	if len(words) == 1 {
		return nil, fmt.Errorf("what of %s? want one of: %s", words[0], properties)
	}
	for rest := words[1:]; len(rest) > 0; rest = rest[2:] {
		if len(rest) == 1 {
			return nil, fmt.Errorf("%.100q wants a value; want one of: %s", rest[0], properties)
		}
		for i := range fleet {
			if !slices.Contains(names, fleet[i].Name) {
				continue
			}
			if err := set(&fleet[i], rest[0], rest[1]); err != nil {
				return nil, fmt.Errorf("%s %.100s: %w", fleet[i].Name, rest[0], err)
			}
		}
	}
	return fleet, nil
}

const properties = "speed X, slots N, bandwidth RATE, memory SIZE, away FROM..TO"

// added carries out "add".
func added(fleet []simulate.Machine, words []string) ([]simulate.Machine, error) {
	if len(words) != 3 || words[1] != "like" {
		return nil, fmt.Errorf("add wants a number and the name of a machine: add N like NAME")
	}
	n, err := strconv.Atoi(words[0])
	if err != nil || n < 1 || n > maxAdded {
		return nil, fmt.Errorf("add %.100q: want a number from 1 to %d", words[0], maxAdded)
	}
	names, err := named(fleet, words[2])
	if err != nil {
		return nil, err
	}
	if len(names) > 1 {
		return nil, fmt.Errorf("%.100q means %s: like wants one of them", words[2], human.Count(len(names), "machine"))
	}
	taken := make(map[string]bool)
	for i := range fleet {
		taken[fleet[i].Name] = true
	}
	like := fleet[slices.IndexFunc(fleet, func(m simulate.Machine) bool { return m.Name == names[0] })]
	for number := 1; n > 0; number++ {
		like.Name = names[0] + "+" + strconv.Itoa(number) // no name in a file has a plus sign
		if !taken[like.Name] {
			fleet = append(fleet, like)
			n--
		}
	}
	if len(fleet) > maxMachines {
		return nil, fmt.Errorf("%d machines: at most %d", len(fleet), maxMachines)
	}
	return fleet, nil
}

// named returns the names of the machines that a name, or a pattern such as "big*", means.
func named(fleet []simulate.Machine, pattern string) (names []string, err error) {
	for i := range fleet {
		ok, err := path.Match(pattern, fleet[i].Name)
		if err != nil {
			return nil, fmt.Errorf("%.100q is no pattern; want one such as big*", pattern)
		}
		if ok {
			names = append(names, fleet[i].Name)
		}
	}
	if names == nil {
		var all []string
		for i := range fleet[:min(len(fleet), maxNamed)] {
			all = append(all, fleet[i].Name)
		}
		return nil, fmt.Errorf("no machine is called %.100q; %s", pattern, command.NearestOf(pattern, all, "they are"))
	}
	return names, nil
}

// set changes one property of a machine.
func set(m *simulate.Machine, property, text string) error {
	switch property {
	case "speed":
		speed, err := strconv.ParseFloat(text, 64)
		if err != nil || !(speed >= 1/maxSpeed && speed <= maxSpeed) {
			return fmt.Errorf("%.100q: want a number such as 2 or 0.5", text)
		}
		m.Speed, m.Configured = speed, 0
	case "slots":
		slots, err := strconv.Atoi(text)
		if err != nil || slots < 1 || slots > maxSlots {
			return fmt.Errorf("%.100q: want a number from 1 to %d", text, maxSlots)
		}
		m.Slots = slots
	case "bandwidth":
		rate, err := parseRate(text)
		if err != nil {
			return err
		}
		m.Bandwidth, m.FetchBandwidth = rate, 0
	case "memory":
		size, err := quantity.ParseBytes(text)
		if err != nil || size < 1 {
			return fmt.Errorf("%.100q: want a size such as 64GiB", text)
		}
		m.Memory = size
	case "away":
		return setAway(m, text)
	default:
		return fmt.Errorf("machines have no such thing; %s", command.NearestOf(property, []string{"speed", "slots", "bandwidth", "memory", "away"}, "there are"))
	}
	return nil
}

// parseRate reads bytes per second: "50MB", "50MB/s".
func parseRate(text string) (float64, error) {
	n, err := quantity.ParseBytes(strings.TrimSuffix(text, "/s"))
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%.100q: want bytes in a second, such as 50MB", text)
	}
	return float64(n), nil
}

// setAway adds a time in which a machine is away.
func setAway(m *simulate.Machine, text string) error {
	from, to, ok := strings.Cut(text, "..")
	var a simulate.Interval
	var err, errTo error
	if ok {
		a.From, err = quantity.ParseDuration(from)
		a.To, errTo = quantity.ParseDuration(to)
	}
	if !ok || cmp.Or(err, errTo) != nil || a.From >= a.To || a.To > 10*365*24*time.Hour {
		return fmt.Errorf("%.100q: want two times after the start, such as 2h..6h", text)
	}
	away := append(slices.Clone(m.Away), a)
	slices.SortFunc(away, func(a, b simulate.Interval) int { return cmp.Compare(a.From, b.From) })
	for i := 1; i < len(away); i++ {
		if away[i].From < away[i-1].To {
			return fmt.Errorf("%.100q: it is away then already", text)
		}
	}
	m.Away = away
	return nil
}
