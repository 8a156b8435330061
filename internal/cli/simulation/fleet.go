package simulation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"lighter/internal/coordinator/reserve"
	"lighter/internal/human"
	"lighter/machines"
	"lighter/scheduler"
	"lighter/scheduler/simulate"
)

// learnt is what a farm has measured of one of its machines; what is 0 was not.
type learnt struct {
	bandwidth, fetchBandwidth float64 // bytes/s
	correction                float64 // of its configured speed: a factor
	memory                    int64   // bytes, all that it has
}

// fleetOf returns the machines of a machines file as they are modelled, with what was measured of
// them. measured is how many of those that need a link have a bandwidth that was.
func fleetOf(list []machines.Machine, known map[string]learnt) (fleet []simulate.Machine, measured, links int) {
	for i := range list {
		m, l := &list[i], known[list[i].Name]
		s := simulate.Machine{
			Name: m.Name, Systems: m.Systems, Features: m.Offers(), MandatoryFeatures: m.MandatoryFeatures,
			Slots: m.ParallelBuilds, Speed: m.Speed, Memory: reserve.MachineMemory(m.Memory, l.memory), Tokens: m.Tokens,
		}
		if l.correction > 0 {
			s.Speed *= l.correction
		}
		if !m.Local {
			links++
			s.Bandwidth, s.FetchBandwidth = scheduler.DefaultBandwidth, l.fetchBandwidth
			if l.bandwidth > 0 {
				measured++
				s.Bandwidth = l.bandwidth
			}
		}
		fleet = append(fleet, s)
	}
	return fleet, measured, links
}

// setEach gives machines a value each, of texts NAME=VALUE, where NAME may be a pattern.
func setEach(fleet []simulate.Machine, list []string, set func(m *simulate.Machine, value string) error) error {
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return fmt.Errorf("%.100q: want NAME=VALUE", text)
		}
		names, err := named(fleet, name)
		if err != nil {
			return err
		}
		for i := range fleet {
			if !slices.Contains(names, fleet[i].Name) {
				continue
			}
			if err := set(&fleet[i], value); err != nil {
				return fmt.Errorf("%s: %w", fleet[i].Name, err)
			}
		}
	}
	return nil
}

func setBandwidth(m *simulate.Machine, value string) error { return set(m, "bandwidth", value) }

// setPrice reads the price of an hour: "0.12/h".
func setPrice(m *simulate.Machine, value string) error {
	price, err := strconv.ParseFloat(strings.TrimSuffix(value, "/h"), 64)
	if err != nil || !(price >= 0 && price <= 1e9) {
		return fmt.Errorf("%.100q: want the price of an hour, such as 0.12/h", value)
	}
	m.Price = price
	return nil
}

// overhead is for how long attempts hold a slot without a builder, and how long an output's way
// home takes besides its bytes.
type overhead struct{ slot, home time.Duration }

// addOverheads has machines take the time that was measured there, added ones that of what they
// are like, and others what is usual.
func addOverheads(fleet []simulate.Machine, measured map[string]overhead, usual overhead) {
	for i := range fleet {
		m := &fleet[i]
		o, ok := measured[m.Name]
		if !ok {
			o = usual
		}
		m.Overhead, m.Delay = o.slot, o.home
	}
}

// sameHosts says which machines of a file are one host, whose slots count for each of them.
func sameHosts(list []machines.Machine) string {
	first := make(map[machines.Route]string)
	for i := range list {
		route := list[i].Route()
		if other, ok := first[route]; ok {
			return fmt.Sprintf("%s and %s are one host, whose slots count for each of them: see --what-if \"%[2]s slots N\"",
				human.Printable(other), human.Printable(list[i].Name))
		}
		first[route] = list[i].Name
	}
	return ""
}
