package scheduler

// backlogs returns, for each demand that only some of the machines meet, how many seconds
// these need for what is queued for them and no others. The builds with such a demand are as urgent as
// one with so long a path: it is a path, through machines instead of builds.
func (r *round) backlogs() map[*demand]float64 {
	type group struct {
		machines       set
		work, capacity float64
		demands        []*demand
	}
	var groups []*group
	named := make(map[string]*group)
	everywhere := r.machines.none()
	for k, e := range r.demands {
		machines := e.available.set
		for w := range everywhere {
			everywhere[w] |= machines[w]
		}
		key := machines.key()
		g := named[key]
		if g == nil {
			g = &group{machines: machines, capacity: r.capacity(machines)}
			named[key] = g
			groups = append(groups, g)
		}
		g.work += k.work
		g.demands = append(g.demands, k)
	}
	if len(groups) > maxGroups {
		return nil
	}
	backlogs := make(map[*demand]float64)
	all := r.capacity(everywhere)
	for _, g := range groups {
		if g.capacity == 0 || g.capacity >= all {
			continue
		}
		work := 0.0
		for _, other := range groups {
			if other.machines.within(g.machines) {
				work += other.work
			}
		}
		for _, k := range g.demands {
			backlogs[k] = work / g.capacity
		}
	}
	return backlogs
}

// maxGroups bounds how many sets of machines are compared with each other.
const maxGroups = 200

// capacity is how many seconds of work at speed 1 machines do in a second.
func (r *round) capacity(machines set) (sum float64) {
	for i := machines.next(0); i >= 0; i = machines.next(i + 1) {
		c := r.machines.all[i]
		sum += float64(c.Slots) * c.speed
	}
	return sum
}
