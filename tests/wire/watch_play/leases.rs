//! Steps about leases, locks and elections.

use super::*;

impl Player {
    pub(super) async fn lease(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Grant { ttl, id } | Step::GrantAndRevoke { ttl, id } => {
                let mut answers = Vec::new();
                for side in &self.sides {
                    let request = pb::LeaseGrantRequest { ttl: *ttl, id: *id };
                    answers.push(said(side.client.lease_grant(&request).await, |answer| Said {
                        header: header(answer.header),
                        id: answer.id,
                        ttl: answer.ttl,
                        text: answer.error,
                        ..Said::default()
                    }));
                }
                let [reference, mut subject] = <[Said; 2]>::try_from(answers).expect("two sides");
                let granted = reference.error.is_none().then_some(reference.id);
                if *id == 0 && subject.error.is_none() {
                    if subject.id <= 0 {
                        return Err(format!("the subject chose lease {}", subject.id));
                    }
                    self.sides[1].translate.leases.insert(subject.id, reference.id);
                    subject.id = reference.id;
                }
                self.compare_answers(&format!("{step:?}"), [reference, subject])?;
                let Some(id) = granted else { return Ok(()) };
                self.world.leases.push(id);
                if let Step::GrantAndRevoke { .. } = step {
                    self.revoke(id).await?;
                }
                Ok(())
            }
            Step::Revoke { id } => self.revoke(*id).await,
            Step::KeepAlive { id } => {
                let mut answers = Vec::new();
                for side in &self.sides {
                    let (mut requests, mut from) =
                        side.client.keep_alive().await.map_err(|error| error.to_string())?;
                    let request = pb::LeaseKeepAliveRequest { id: side.translate.back(*id) };
                    requests.send(&request).map_err(|error| error.to_string())?;
                    let mut answer = said(from.next().await, |answer| {
                        let answer = answer.unwrap_or_default();
                        Said {
                            header: header(answer.header),
                            id: side.translate.lease(answer.id),
                            ttl: answer.ttl,
                            ..Said::default()
                        }
                    });
                    requests.half_close().map_err(|error| error.to_string())?;
                    // How the stream ends after a half close.
                    answer.text = format!("{:?}", from.next().await.map(|more| more.is_some()));
                    answers.push(answer);
                }
                self.compare_answers(&format!("{step:?}"), <[Said; 2]>::try_from(answers).expect("two sides"))
            }
            Step::TimeToLive { id, keys } => {
                let mut answers = Vec::new();
                for side in &self.sides {
                    let answer = side.client.lease_time_to_live(side.translate.back(*id), *keys).await;
                    answers.push(said(answer, |answer| {
                        let mut keys: Vec<Bytes> =
                            answer.keys.iter().map(|key| side.translate.key(key)).collect();
                        keys.sort();
                        Said {
                            header: header(answer.header),
                            id: side.translate.lease(answer.id),
                            ttl: answer.ttl,
                            granted_ttl: answer.granted_ttl,
                            keys,
                            ..Said::default()
                        }
                    }));
                }
                let [reference, mut subject] = <[Said; 2]>::try_from(answers).expect("two sides");
                if reference.ttl > 0 && (reference.ttl - subject.ttl).abs() <= 3 && subject.ttl > 0 {
                    subject.ttl = reference.ttl;
                }
                self.compare_answers(&format!("{step:?}"), [reference, subject])
            }
            Step::Leases => {
                let mut answers = Vec::new();
                for side in &self.sides {
                    answers.push(said(side.client.leases().await, |answer| {
                        let mut leases: Vec<i64> =
                            answer.leases.iter().map(|lease| side.translate.lease(lease.id)).collect();
                        leases.sort_unstable();
                        Said { header: header(answer.header), leases, ..Said::default() }
                    }));
                }
                self.compare_answers("Leases", <[Said; 2]>::try_from(answers).expect("two sides"))
            }
            Step::Expire { id, keys } => self.expire(*id, keys).await,
            _ => unreachable!("not a step of leases"),
        }
    }

    async fn revoke(&mut self, id: i64) -> Result<(), String> {
        let mut answers = Vec::new();
        for side in &self.sides {
            answers.push(said(side.client.lease_revoke(side.translate.back(id)).await, |answer| Said {
                header: header(answer.header),
                ..Said::default()
            }));
        }
        self.world.leases.retain(|lease| *lease != id);
        self.compare_answers(&format!("revoke {id}"), <[Said; 2]>::try_from(answers).expect("two sides"))
    }

    async fn expire(&mut self, id: i64, keys: &[Bytes]) -> Result<(), String> {
        for side in &self.sides {
            let request = pb::LeaseGrantRequest { ttl: 2, id };
            let granted = side.client.lease_grant(&request).await.map_err(|error| error.to_string())?;
            compare_said("the TTL of a short lease", &2, &granted.ttl)?;
        }
        for key in keys {
            let request =
                pb::PutRequest { key: key.clone(), value: "short".into(), lease: id, ..Default::default() };
            self.kv(&Request::Put(request)).await?;
        }
        // One revision, whenever it comes.
        self.reached(self.world.revision + 1);
        Ok(())
    }

    pub(super) async fn lock(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Unlock { key } => {
                let mut answers = Vec::new();
                for side in &self.sides {
                    // The script knows keys by the reference's leases.
                    let key = side.translate_back_key(key);
                    answers.push(said(side.client.unlock(key).await, |answer| Said {
                        header: header(answer.header),
                        ..Said::default()
                    }));
                }
                self.compare_answers(&format!("{step:?}"), <[Said; 2]>::try_from(answers).expect("two sides"))
            }
            Step::Lock { name, lease } | Step::AbandonLock { name, lease } => {
                let holder = self.holder(name);
                let is_contended =
                    holder.as_ref().is_some_and(|key| !key.ends_with(own_suffix(*lease).as_bytes()))
                        && (*lease == 0 || self.world.leases.contains(lease));
                let mut calls = Vec::new();
                for side in &self.sides {
                    let client = side.client.clone();
                    let request =
                        lock::LockRequest { name: name.clone(), lease: side.translate.back(*lease) };
                    calls.push(tokio::task::spawn_local(async move { client.lock(&request).await }));
                }
                if is_contended {
                    let before = self.world.revision;
                    // The waiter's own key, then its end or the holder's.
                    self.reached(before + 1);
                    self.settle(false).await?;
                    if let Step::AbandonLock { .. } = step {
                        for call in calls {
                            call.abort();
                        }
                        self.reached(before + 2);
                        return Ok(());
                    }
                    let holder = holder.expect("contended");
                    Box::pin(self.lock(&Step::Unlock { key: holder })).await?;
                }
                let mut answers = Vec::new();
                for call in calls {
                    let answer = call.await.expect("the call does not panic");
                    answers.push(said(answer, |answer| Said {
                        header: header(answer.header),
                        key: answer.key,
                        ..Said::default()
                    }));
                }
                let [reference, mut subject] = <[Said; 2]>::try_from(answers).expect("two sides");
                if *lease == 0 && reference.error.is_none() {
                    self.learn_lease_of_key(&reference.key, &subject.key)?;
                }
                subject.key = self.sides[1].translate.key(&subject.key);
                self.compare_answers(&format!("{step:?}"), [reference, subject])
            }
            _ => unreachable!("not a step of locks"),
        }
    }

    /// The key that holds a lock or leads an election. The script never lets two wait.
    fn holder(&self, name: &Bytes) -> Option<Bytes> {
        self.world.held.iter().find(|(held, _)| held == name).map(|(_, key)| key.clone())
    }

    fn learn_lease_of_key(&mut self, reference: &[u8], subject: &[u8]) -> Result<(), String> {
        let lease = |key: &[u8]| -> Result<i64, String> {
            let text = String::from_utf8_lossy(key);
            let hex = text.rsplit('/').next().unwrap_or_default();
            i64::from_str_radix(hex, 16).map_err(|error| format!("the key {text}: {error}"))
        };
        let (reference, subject) = (lease(reference)?, lease(subject)?);
        self.sides[1].translate.leases.insert(subject, reference);
        self.world.leases.push(reference);
        Ok(())
    }

    pub(super) async fn election(&mut self, step: &Step) -> Result<(), String> {
        let mut answers = Vec::new();
        let mut proclaims = false;
        match step {
            Step::Campaign { name, lease, value } => {
                let holder = self.holder(name);
                if holder.as_ref().is_some_and(|key| !key.ends_with(own_suffix(*lease).as_bytes())) {
                    return Ok(());
                }
                // A leader that campaigns with another value proclaims it, after the transaction whose
                // revision the answer bears.
                proclaims = holder.is_some_and(|key| self.values.get(&key) != Some(value));
                let mut leaders = Vec::new();
                for side in &mut self.sides {
                    let request = election::CampaignRequest {
                        name: name.clone(),
                        lease: side.translate.back(*lease),
                        value: value.clone(),
                    };
                    let answer = side.client.campaign(&request).await;
                    let leader = answer.as_ref().ok().and_then(|answer| answer.leader.clone());
                    if let Some(leader) = &leader {
                        side.election_keys.insert(name.clone(), leader.clone());
                    }
                    answers.push(said(answer, |answer| Said {
                        header: header(answer.header),
                        ..Said::default()
                    }));
                    leaders.push(leader.unwrap_or_default());
                }
                if *lease == 0 && answers[0].error.is_none() {
                    let keys = [leaders[0].key.clone(), leaders[1].key.clone()];
                    self.learn_lease_of_key(&keys[0], &keys[1])?;
                }
                for (place, leader) in leaders.into_iter().enumerate() {
                    let translate = &self.sides[place].translate;
                    answers[place].key = translate.key(&leader.key);
                    answers[place].name = leader.name;
                    answers[place].rev = leader.rev;
                    answers[place].id = translate.lease(leader.lease);
                }
            }
            Step::Proclaim { name, value, wrong } => {
                for side in &self.sides {
                    let request = election::ProclaimRequest {
                        leader: side.leader_key(name, *wrong),
                        value: value.clone(),
                    };
                    answers.push(said(side.client.proclaim(&request).await, |answer| Said {
                        header: header(answer.header),
                        ..Said::default()
                    }));
                }
            }
            Step::Resign { name, wrong } => {
                for side in &self.sides {
                    let leader = side.leader_key(name, *wrong);
                    answers.push(said(side.client.resign(leader).await, |answer| Said {
                        header: header(answer.header),
                        ..Said::default()
                    }));
                }
            }
            Step::Leader { name } => {
                for side in &self.sides {
                    let answer = side.client.leader(name.clone()).await;
                    answers.push(said(answer, |answer| side.leader(answer)));
                }
            }
            Step::Observe { name } => {
                if self.holder(name).is_none() {
                    return Ok(());
                }
                let text = std::str::from_utf8(name).expect("the script's names are text");
                for side in &self.sides {
                    let (requests, mut from) =
                        side.client.observe(text).await.map_err(|error| error.to_string())?;
                    let answer = from.next().await;
                    requests.reset();
                    answers.push(said(answer, |answer| side.leader(answer.unwrap_or_default())));
                }
            }
            _ => unreachable!("not a step of elections"),
        }
        let is_proclaimed = proclaims && answers[0].error.is_none();
        self.compare_answers(&format!("{step:?}"), <[Said; 2]>::try_from(answers).expect("two sides"))?;
        if is_proclaimed {
            self.reached(self.world.revision + 1);
        }
        Ok(())
    }
}
