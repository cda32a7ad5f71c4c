//! Lists of members by name and peer URL, as `--initial-cluster` and discovery services write them.

use super::parse::{Refused, Settings};
use super::url::Url;

/// Name by name, the peer URLs of the members that begin a cluster.
pub type MemberUrls = Vec<(String, Vec<Url>)>;

/// Reads `name=url,name=url2`; a name may repeat and then has several URLs. No URL may be listed
/// twice, since two members cannot share one. Empty parts are passed over.
pub(super) fn parse_initial_cluster(settings: &Settings) -> Result<MemberUrls, Refused> {
    let flag = "initial-cluster";
    parse_members(settings.text(flag)).map_err(|reason| settings.invalid(flag, &reason))
}

/// The same for any text, such as what a member has registered with a discovery service.
pub fn parse_members(text: &str) -> Result<MemberUrls, String> {
    let mut members = MemberUrls::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let Some((name, url)) = part.trim().split_once('=') else {
            return Err(format!("{part:?} is not name=url"));
        };
        if name.is_empty() {
            return Err(format!("{part:?} has no member name"));
        }
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        if members.iter().any(|(_, urls)| urls.contains(&url)) {
            return Err(format!("{url} is listed twice"));
        }
        match members.iter_mut().find(|(member, _)| member == name) {
            Some((_, urls)) => urls.push(url),
            None => members.push((name.to_owned(), vec![url])),
        }
    }
    Ok(members)
}
