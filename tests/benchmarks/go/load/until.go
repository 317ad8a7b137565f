package main

import (
	"cmp"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// until lets all sides ask at once and without a pause, sends one request in the midst of it, and tells when each side
// was served for the last time.
type until struct {
	Event *side `json:"event"`
	// Seconds of traffic before the event.
	Before float64 `json:"before"`
	// Seconds without a served request after which a side counts as at its end; a limit for the whole.
	Quiet float64 `json:"quiet"`
	Limit float64 `json:"limit"`
}

type end struct {
	// Milliseconds since the event was answered; negative: before.
	LastServed float64 `json:"lastServed"`
	// Answers by status.
	Answers map[string]int `json:"answers"`
}

type answered struct {
	status int
	at     time.Time
}

func (u *until) run(sides []*side) (map[string]end, error) {
	if err := u.Event.prepare(); err != nil {
		return nil, err
	}
	limit := time.Now().Add(time.Duration(u.Limit * float64(time.Second)))
	var wait sync.WaitGroup
	var lock sync.Mutex
	var failed []error
	seen := map[*side][]answered{}
	lastServed := time.Now()
	done := make(chan struct{})
	for _, s := range sides {
		for range s.InFlight {
			wait.Go(func() {
				for time.Now().Before(limit) {
					select {
					case <-done:
						return
					default:
					}
					status, _, _, err := s.send()
					now := time.Now()
					lock.Lock()
					if err != nil {
						failed = append(failed, err)
					}
					seen[s] = append(seen[s], answered{status, now})
					if status == s.Want {
						lastServed = now
					}
					lock.Unlock()
					if status != s.Want {
						// Who is refused asks again, and does not take the machine for it.
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
	}
	time.Sleep(time.Duration(u.Before * float64(time.Second)))
	_, eventErr := u.Event.sendWanted()
	accepted := time.Now()
	quiet := func() bool {
		lock.Lock()
		defer lock.Unlock()
		return time.Since(later(lastServed, accepted)).Seconds() >= u.Quiet
	}
	for eventErr == nil && !quiet() && time.Now().Before(limit) {
		time.Sleep(10 * time.Millisecond)
	}
	over := quiet()
	close(done)
	wait.Wait()
	if err := cmp.Or(append(failed, eventErr)...); err != nil {
		return nil, err
	}
	if !over {
		return nil, fmt.Errorf("still served after %.0f s", u.Limit)
	}
	ends := map[string]end{}
	for s, all := range seen {
		e := end{Answers: map[string]int{}}
		var last time.Time
		for _, one := range all {
			e.Answers[strconv.Itoa(one.status)]++
			if one.status == s.Want {
				last = later(last, one.at)
			}
		}
		if last.IsZero() {
			return nil, fmt.Errorf("%s was never served: %v", s.Name, e.Answers)
		}
		e.LastServed = float64(last.Sub(accepted).Microseconds()) / 1000
		ends[s.Name] = e
	}
	return ends, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
