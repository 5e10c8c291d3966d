use super::*;
use crate::ErrorKind;

fn checked(options: &[(&str, Setting)]) -> Result<(), String> {
    let options = options
        .iter()
        .map(|(key, setting)| ((*key).to_owned(), setting.clone()));
    Provider::Qnn
        .check_options(&options.collect())
        .map_err(|e| {
            assert_eq!(e.kind(), ErrorKind::InvalidArgument);
            e.to_string()
        })
}

fn number(key: &'static str, value: i64) -> (&'static str, Setting) {
    (key, Setting::Number(value))
}

fn text(key: &'static str, value: &str) -> (&'static str, Setting) {
    (key, Setting::Text(value.into()))
}

#[test]
fn legal_options_pass() {
    assert_eq!(checked(&[]), Ok(()));
    for (soc, arch) in SOCS {
        let given = [number("soc_model", soc), number("htp_arch", arch)];
        assert_eq!(checked(&given), Ok(()));
    }
    let given = [
        number("soc_model", 69),
        number("vtcm_mb", 8),
        text("htp_performance_mode", "burst"),
        text("backend_path", "libQnnHtp.so"),
        ("enable_htp_fp16_precision", Setting::Switch(true)),
    ];
    assert_eq!(checked(&given), Ok(()));
}

#[test]
fn illegal_ones_are_named_with_what_they_may_be() {
    for (given, said) in [
        (vec![number("soc", 69)], "no option \"soc\""),
        (vec![number("soc_model", 70)], "30, 36, 43"),
        (vec![number("vtcm_mb", 9)], "from 1 to 8"),
        (vec![number("htp_arch", 79)], "without soc_model"),
        (
            vec![number("soc_model", 69), number("htp_arch", 73)],
            "htp_arch = 79",
        ),
        (vec![text("backend_type", "dsp")], "\"htp\""),
        (
            vec![text("backend_path", "../libQnnHtp.so")],
            "without a folder",
        ),
        (vec![text("backend_path", "libevil.so")], "libQnn"),
        (
            vec![
                text("backend_path", "libQnnHtp.so"),
                text("backend_type", "htp"),
            ],
            "give one of them",
        ),
        (
            vec![("enable_htp_fp16_precision", Setting::Number(1))],
            "true or false",
        ),
        (
            vec![("enable_htp_fp16_precision", Setting::Switch(true))],
            "without soc_model",
        ),
    ] {
        let told = checked(&given);
        assert!(
            told.as_ref().is_err_and(|told| told.contains(said)),
            "{given:?}: {told:?}"
        );
    }
}
