package compat

import (
	"strconv"
	"strings"
)

// words are the texts of the pages in one language.
type words struct {
	Lang                                          string
	Login, Logout, User, Password, Enter          string
	Devices, Device, Command, Value, Send         string
	Status, Telemetry, None, More, Find, Reload   string
	WrongLogin, Sent, Offline, Missing, ErrorWord string
	Wait, Forbidden                               string
}

// russian is the language of the original; its messages are those of the original.
func russian() *words {
	return &words{
		Lang: "ru", Login: "Вход", Logout: "Выйти", User: "Имя пользователя", Password: "Пароль", Enter: "Войти",
		Devices: "Устройства", Device: "Устройство", Command: "Команда", Value: "Значение", Send: "Отправить",
		Status: "Состояние", Telemetry: "Последняя телеметрия", None: "Устройств нет", More: "показаны не все", Find: "Найти", Reload: "Обновить",
		WrongLogin: "Неверный логин или пароль", Sent: "Команда {} отправлена", Offline: "Устройство offline",
		Missing: "Заполните обязательные поля", ErrorWord: "Ошибка",
		Wait: "Слишком много неудачных попыток входа; повторите через {} с", Forbidden: "Эти учётные данные не позволяют отправлять команды",
	}
}

func english() *words {
	return &words{
		Lang: "en", Login: "Log in", Logout: "Log out", User: "User name", Password: "Password", Enter: "Log in",
		Devices: "Devices", Device: "Device", Command: "Command", Value: "Value", Send: "Send",
		Status: "Status", Telemetry: "Last telemetry", None: "There are no devices", More: "not all are shown", Find: "Find", Reload: "Refresh",
		WrongLogin: "Wrong user name or password", Sent: "Command {} sent", Offline: "The device is offline",
		Missing: "Fill in the required fields", ErrorWord: "Error",
		Wait: "Too many failed logins; try again in {} s", Forbidden: "The credential may look, but not send commands",
	}
}

func chinese() *words {
	return &words{
		Lang: "zh", Login: "登录", Logout: "退出", User: "用户名", Password: "密码", Enter: "登录",
		Devices: "设备", Device: "设备", Command: "命令", Value: "值", Send: "发送",
		Status: "状态", Telemetry: "最新遥测", None: "没有设备", More: "未全部显示", Find: "查找", Reload: "刷新",
		WrongLogin: "用户名或密码错误", Sent: "命令 {} 已发送", Offline: "设备离线",
		Missing: "请填写必填项", ErrorWord: "错误",
		Wait: "登录失败次数过多，请在 {} 秒后重试", Forbidden: "该凭据只能查看，不能发送命令",
	}
}

// wordsFor chooses by Accept-Language (RFC 9110, section 12.5.4). Whoever does not say a
// language, as scripts do, gets the language of the original.
func wordsFor(accept string) *words {
	if strings.TrimSpace(accept) == "" {
		return russian()
	}
	best, weight := english, 0.0
	for part := range strings.SplitSeq(accept, ",") {
		tag, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		q := 1.0
		if text, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			var err error
			if q, err = strconv.ParseFloat(text, 64); err != nil {
				continue
			}
		}
		language, _, _ := strings.Cut(strings.ToLower(tag), "-")
		choice, ok := map[string]func() *words{"en": english, "ru": russian, "zh": chinese}[language]
		if ok && q > weight {
			best, weight = choice, q
		}
	}
	return best()
}

// text gives a message in this language.
func (w *words) text(f flash) string {
	switch f.Kind {
	case flashWrongLogin:
		return w.WrongLogin
	case flashSent:
		return strings.Replace(w.Sent, "{}", f.Text, 1)
	case flashOffline:
		return w.Offline
	case flashMissing:
		return w.Missing
	case flashWait:
		return strings.Replace(w.Wait, "{}", f.Text, 1)
	case flashForbidden:
		return w.Forbidden
	default:
		return w.ErrorWord + ": " + f.Text
	}
}
