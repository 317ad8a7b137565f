package main

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// turns lets the sides take turns: in each round each of them works alone, in an order that is reversed from round to
// round, so that what drifts on the machine meets all alike. One round more, the first, warms up and does not count.
type turns struct {
	Rounds int `json:"rounds"`
	// A turn ends after so many seconds, or after so many requests.
	Seconds  float64 `json:"seconds"`
	Requests int64   `json:"requests"`
	// Alternate: a round is not one turn of each side, but Requests times one request of each, one in flight.
	Alternate bool `json:"alternate"`
}

type round struct {
	Count     int     `json:"count"`
	Failed    int     `json:"failed"`
	Failure   string  `json:"failure"` // one of them
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50"` // milliseconds
	P99       float64 `json:"p99"`
}

func (t *turns) run(sides []*side) map[string][]round {
	seen := map[string][]round{}
	for number := range t.Rounds + 1 {
		for s, r := range t.round(sides, number) {
			if number > 0 || t.Rounds == 0 {
				seen[s.Name] = append(seen[s.Name], r)
			}
		}
	}
	return seen
}

func (t *turns) round(sides []*side, number int) map[*side]round {
	if t.Alternate {
		return t.alternating(sides)
	}
	order := slices.Clone(sides)
	if number%2 == 1 {
		slices.Reverse(order)
	}
	rounds := map[*side]round{}
	for _, s := range order {
		rounds[s] = t.turn(s)
	}
	return rounds
}

func (t *turns) turn(s *side) round {
	var wait sync.WaitGroup
	var sent atomic.Int64
	seen := make([]tally, s.InFlight)
	started := time.Now()
	for worker := range s.InFlight {
		wait.Go(func() {
			for {
				if t.Requests > 0 && sent.Add(1) > t.Requests || t.Requests == 0 && time.Since(started).Seconds() >= t.Seconds {
					return
				}
				seen[worker].send(s)
			}
		})
	}
	wait.Wait()
	span := time.Since(started)
	var all tally
	for _, one := range seen {
		all.add(one)
	}
	return all.summary(span)
}

func (t *turns) alternating(sides []*side) map[*side]round {
	seen := map[*side]*tally{}
	for _, s := range sides {
		seen[s] = &tally{}
	}
	for range t.Requests {
		for _, s := range sides {
			seen[s].send(s)
		}
	}
	rounds := map[*side]round{}
	for s, all := range seen {
		var span time.Duration
		for _, one := range all.took {
			span += one
		}
		rounds[s] = all.summary(span)
	}
	return rounds
}

// tally is what came of some requests. Times are those of the requests that were answered as wanted.
type tally struct {
	took    []time.Duration
	failed  int
	failure string
}

func (t *tally) send(s *side) {
	took, err := s.sendWanted()
	if err != nil {
		t.failed++
		t.failure = err.Error()
		return
	}
	t.took = append(t.took, took)
}

func (t *tally) add(other tally) {
	t.took = append(t.took, other.took...)
	t.failed += other.failed
	t.failure = cmp.Or(t.failure, other.failure)
}

func (t *tally) summary(span time.Duration) round {
	slices.Sort(t.took)
	return round{
		Count:     len(t.took),
		Failed:    t.failed,
		Failure:   t.failure,
		PerSecond: float64(len(t.took)) / span.Seconds(),
		P50:       quantile(t.took, 0.50),
		P99:       quantile(t.took, 0.99),
	}
}

// quantile of sorted durations, by nearest rank, in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return float64(sorted[max(rank, 0)].Microseconds()) / 1000
}
