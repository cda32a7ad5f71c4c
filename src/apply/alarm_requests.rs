//! Requests about alarms.

use prost::Message as _;

use super::alarm::{ALARMS_MAX, Alarm, AlarmType, Alarms};
use super::machine::Machine;
use crate::pb::etcdserverpb as pb;
use crate::request::{Outcome, Rejection, Response};
use crate::types::MemberId;

impl Machine {
    /// The alarms that are active.
    #[must_use]
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    pub(super) fn alarm(&mut self, request: &pb::AlarmRequest) -> Outcome {
        use pb::alarm_request::AlarmAction;
        let member = MemberId(request.member_id);
        let kind = AlarmType::from_number(request.alarm);
        let changed = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => return Ok(self.list_alarms(request.alarm)),
            Ok(AlarmAction::Activate) => match kind {
                None if request.alarm == pb::AlarmType::None as i32 => None,
                None => return Err(Rejection::UnknownAlarm(request.alarm)),
                Some(kind) => {
                    let alarm = Alarm { kind, member };
                    if !self.alarms.activate(alarm) {
                        return Err(Rejection::TooManyAlarms(ALARMS_MAX));
                    }
                    Some(alarm)
                }
            },
            Ok(AlarmAction::Deactivate) => {
                kind.map(|kind| Alarm { kind, member }).filter(|alarm| self.alarms.deactivate(*alarm))
            }
            Err(_) => return Err(Rejection::UnknownAlarmAction(request.action)),
        };
        Ok(self.alarm_response(changed.into_iter()))
    }

    /// `AlarmResponse` with the alarms of this kind, or with all for 0.
    pub(super) fn list_alarms(&self, kind: i32) -> Response {
        let is_asked = |alarm: &Alarm| kind == pb::AlarmType::None as i32 || alarm.kind.number() == kind;
        self.alarm_response(self.alarms.iter().filter(is_asked))
    }

    fn alarm_response(&self, alarms: impl Iterator<Item = Alarm>) -> Response {
        let message =
            |alarm: Alarm| pb::AlarmMember { member_id: alarm.member.0, alarm: alarm.kind.number() };
        let answer = pb::AlarmResponse { header: None, alarms: alarms.map(message).collect() };
        self.response(answer.encode_to_vec())
    }
}
